"""Files in a folder: each stored once, whatever happens in between; and what is of no use is set aside with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedfleet.edge.data import Store
from fedfleet.edge.sources import ledger
from fedfleet.edge.sources.folder import FolderSource
from fedfleet.edge.sources.ledger import Entry, Ledger
from fedfleet.edge.sources.settings import Folder
from fedfleet.wire.errors import StoreError

HEAD = "a,b,failure\n"


def rows(start: int, stop: int) -> str:
    """Lines of a CSV file, whose labels tell which they are."""
    return "".join(f"{n},{-n},{n}\n" for n in range(start, stop))


class Board:
    """A folder of files, the store they go to, and a clock set by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inbox = root / "inbox"
        self.inbox.mkdir()
        self.now = 0.0
        self.written = 1_790_000_000
        self.restart()

    def restart(self) -> None:
        """A new life: nothing is left but what is on disk."""
        self.store = Store.open(self.root / "examples", 2**20, 2**10)
        settings = Folder("inbox", label="failure")
        self.source = FolderSource(settings, self.root, self.root / "collected.jsonl", lambda: self.now)

    def put(self, name: str, text: str | bytes) -> Path:
        """Write a file, later than all before."""
        self.written += 1
        path = self.inbox / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(path, (self.written, self.written))
        return path

    def poll(self, times: int = 2) -> int:
        """Look as often as it takes to find that a file has stopped changing; how many examples came."""
        count = 0
        for _ in range(times):
            self.now += 5.0
            count += self.source.poll(self.store)
        return count

    def held(self) -> list[int]:
        """The labels in the store."""
        self.store = Store.open(self.root / "examples", 2**20, 2**10)
        return self.store.arrays().y.tolist() if len(self.store) else []  # type: ignore[no-any-return]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_files_are_stored_once_the_oldest_first(board: Board) -> None:
    np.savez(board.inbox / "later.npz", x=np.ones((2, 2)), y=np.array([7, 8]))
    board.put("z.csv", HEAD + rows(0, 3))
    board.put("a.CSV", HEAD + rows(3, 5))
    os.utime(board.inbox / "later.npz", (board.written + 1, board.written + 1))
    assert board.poll() == 7
    assert board.held() == [0, 1, 2, 3, 4, 7, 8]
    for _ in range(3):
        board.restart()
        assert board.poll(4) == 0
    assert sorted(path.name for path in board.inbox.iterdir()) == ["a.CSV", "later.npz", "z.csv"]


def test_what_is_no_example_is_left_alone(board: Board) -> None:
    board.put("notes.txt", "a,failure\n1,1\n")
    board.put(".hidden.csv", "a,failure\n1,1\n")
    (board.inbox / "folder.csv").mkdir()
    os.mkfifo(board.inbox / "pipe.csv")
    (board.inbox / "dangling.csv").symlink_to("nowhere")
    assert board.poll(4) == 0
    assert not (board.root / "collected.jsonl").exists()


def test_names_may_have_any_characters(board: Board) -> None:
    for number, name in enumerate(["a?label=b.csv", "ü &=#%.csv", os.fsdecode(b"\xff\xfe.csv"), "x\ny.csv"]):
        board.put(name, HEAD + rows(number, number + 1))
    assert board.poll() == 4
    board.restart()
    assert board.poll() == 0
    assert board.held() == [0, 1, 2, 3]


def test_a_file_is_read_when_it_has_stopped_changing(board: Board) -> None:
    for number in range(1, 6):
        board.put("a.csv", HEAD + rows(0, number))
        assert board.poll(1) == 0
    assert board.source.poll(board.store) == 0  # no time has passed since the last look
    board.now += 4.9
    assert board.source.poll(board.store) == 0
    assert board.poll(1) == 5


def test_a_file_that_grows_is_read_on_from_where_it_was(board: Board) -> None:
    for number in range(1, 5):
        board.put("log.csv", HEAD + rows(0, 3 * number))
        assert board.poll() == 3
        board.restart()
    assert board.held() == list(range(12))
    board.put("log.csv", HEAD + rows(0, 12) + "\n")  # nothing but a blank line
    assert board.poll() == 0
    board.put("log.csv", HEAD + rows(50, 60) + rows(60, 64))  # a new file of the old name
    assert board.poll() == 14
    assert board.held() == [*range(12), *range(50, 64)]


def test_a_log_that_is_rotated(board: Board) -> None:
    path = board.put("log.csv", HEAD + rows(0, 3))
    assert board.poll() == 3
    with path.open("a") as file:  # rows that come just before it is renamed
        file.write(rows(3, 5))
    path.rename(board.inbox / "log.1.csv")
    board.put("log.csv", HEAD + rows(5, 6))
    assert board.poll() == 3
    board.restart()
    assert board.poll() == 0
    (board.inbox / "log.1.csv").rename(board.inbox / "log.2.csv")
    assert board.poll() == 0
    assert sorted(board.held()) == [0, 1, 2, 3, 4, 5]


def test_the_same_bytes_under_another_name_are_the_same_file(board: Board) -> None:
    board.put("a.csv", HEAD + rows(0, 3))
    board.poll()
    board.put("copy.csv", HEAD + rows(0, 3))
    assert board.poll(4) == 0
    os.utime(board.inbox / "a.csv")
    assert board.poll() == 0
    assert board.held() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("bad.csv", b"a,b\n1,2\n", "bad.csv has no column 'failure': its columns are a, b"),
        ("bad.csv", (HEAD + "1,x,0\n").encode(), "bad.csv line 2, column 'b': 'x' is not a number"),
        ("bad.csv", (HEAD + "1,nan,0\n").encode(), "bad.csv line 2, column 'b': nan is not finite in 32 bits"),
        ("bad.csv", HEAD.encode(), "bad.csv: there are no examples"),
        ("bad.csv", b"\xff\xfe\x00", "bad.csv near line"),
        ("bad.npz", b"PK\x03\x04 nothing", "bad.npz is not an intact npz file"),
        ("bad.csv", b"a,failure\n1,1\n", "holds x [2] with a label, not x [1] with a label"),
    ],
)
def test_a_bad_file_is_set_aside_once_and_read_again_when_it_is_mended(
    board: Board, caplog: pytest.LogCaptureFixture, name: str, data: bytes, reason: str
) -> None:
    board.put("good.csv", HEAD + rows(0, 2))
    board.put(name, data)
    board.put("good too.csv", HEAD + rows(2, 4))
    assert board.poll(4) == 4
    for _ in range(2):
        board.restart()
        assert board.poll(4) == 0
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert said[0].startswith("set aside: ") and reason in said[0]
    board.put("bad.csv", HEAD + rows(4, 6))
    assert board.poll() == 2


def test_a_folder_that_is_not_there_is_told_once_and_waited_for(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    board.put("a.csv", HEAD + rows(0, 2))
    board.poll()
    away = board.inbox.rename(board.root / "away")
    board.restart()
    assert board.poll(5) == 0
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{board.inbox} cannot be listed: No such file or directory; make it, or correct its name"]
    away.rename(board.inbox)
    assert board.poll(3) == 0
    board.put("b.csv", HEAD + rows(2, 3))
    assert board.poll() == 1


def test_regression_and_targets(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("a,life\n1,100\n2,50\n")
    now = iter(range(0, 100, 5))
    source = FolderSource(Folder("in", "life", "regression"), tmp_path, tmp_path / "l", lambda: next(now))
    store = Store.open(tmp_path / "examples")
    assert [source.poll(store) for _ in range(2)] == [0, 2]
    assert store.arrays().y.tolist() == [[100.0], [50.0]]


# power cuts


def test_the_power_goes_after_the_append_and_before_the_ledger_knows(board: Board) -> None:
    board.put("a.csv", HEAD + rows(0, 40))
    ledger_path = board.root / "collected.jsonl"
    board.poll()
    lines = ledger_path.read_bytes().splitlines(keepends=True)
    assert [b'"begun": true' in line for line in lines] == [True, False]
    ledger_path.write_bytes(lines[0] + lines[1][:20])
    board.restart()
    board.poll()
    assert board.held() == list(range(40))


@pytest.mark.parametrize("grown", [0, 5])
@pytest.mark.parametrize("stored", [0, 1, 17, 39, 40])
def test_the_power_goes_in_the_middle_and_the_file_has_grown_meanwhile(board: Board, stored: int, grown: int) -> None:
    board.put("a.csv", HEAD + rows(0, 3))
    board.poll()
    board.put("a.csv", HEAD + rows(0, 43))
    board.poll()
    left = 3 + stored
    for path in sorted((board.root / "examples").glob("*.segment")):
        records = (path.stat().st_size - 64) // 16
        if left <= 0:
            path.unlink()
        elif left < records:
            os.truncate(path, 64 + 16 * left)
        left -= records
    lines = (board.root / "collected.jsonl").read_bytes().splitlines(keepends=True)
    (board.root / "collected.jsonl").write_bytes(b"".join(lines[:-1]))
    assert board.held() == list(range(3 + stored))
    if grown:
        board.put("a.csv", HEAD + rows(0, 43 + grown))
        (board.inbox / "a.csv").rename(board.inbox / "b.csv")
    board.put("first.csv", HEAD + rows(900, 901))
    os.utime(board.inbox / "first.csv", (1, 1))
    board.restart()
    board.poll(4)
    mine = [n for n in board.held() if n < 900]
    assert mine == list(range(43 + grown))
    assert board.held().count(900) == 1


KILLED = """
import sys, time
from pathlib import Path
from fedfleet.edge.data import Store
from fedfleet.edge.sources.folder import FolderSource
from fedfleet.edge.sources.settings import Folder
root = Path(sys.argv[1])
now = iter(range(0, 10**9, 5))
source = FolderSource(Folder("inbox", "failure"), root, root / "collected.jsonl", lambda: next(now))
store = Store.open(root / "examples", 2**20, 2**10)
print("ready", flush=True)
while True:
    source.poll(store)
    if len(store) >= int(sys.argv[2]):
        print("done", flush=True)
        time.sleep(60)
"""


@pytest.mark.usefixtures("rooms")
def test_killed_at_any_time_nothing_is_stored_twice_or_lost(board: Board) -> None:
    files, each = 4, 300
    for number in range(files):
        board.put(f"{number}.csv", HEAD + rows(each * number, each * number + each))
    total, kills = files * each, 0
    while len(board.held()) < total:
        assert kills < 100
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(board.root), str(total)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            end = time.monotonic() + 0.02 * (kills % 8)
            while time.monotonic() < end:
                pass
            process.send_signal(signal.SIGKILL)
        kills += 1
    assert kills > 1
    assert board.held() == list(range(total))
    board.restart()
    board.poll(3)
    assert board.held() == list(range(total))


def test_a_full_disk_is_not_the_files_fault(board: Board) -> None:
    board.put("a.csv", HEAD + rows(0, 3))
    (board.root / "collected.jsonl").unlink(missing_ok=True)
    (board.root / "collected.jsonl").mkdir()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"collected.jsonl cannot be written: Is a directory"):
            board.poll()
    (board.root / "collected.jsonl").rmdir()
    assert board.poll(1) == 3


# the ledger


def entry(name: str, **fields: int | str | bool) -> Entry:
    return Entry(name, 10, 20, 30, "abc", **fields)  # type: ignore[arg-type]


def test_the_ledger_forgets_the_oldest_of_those_that_have_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST", 3)
    path = tmp_path / "ledger"
    book = Ledger(path)
    for number in range(8):
        book.add(entry(f"{number}.csv"))
    assert Ledger(path).named("0.csv") is not None  # no file is there at all: the disk may be out
    found = Ledger(path, {"0.csv"})
    assert [found.named(f"{n}.csv") is not None for n in range(8)] == [True] + [False] * 4 + [True] * 3
    assert path.read_text().count("\n") == 4


@pytest.mark.parametrize("rubbish", [b"{", b"\xff\xfe", b'{"name": 3}\n', b"null\n", b'{"name": "b", "size": "x"}\n'])
def test_a_ledger_with_rubbish_in_it_keeps_the_rest(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "ledger"
    Ledger(path).add(entry("a.csv", rows=3))
    with path.open("ab") as file:
        file.write(rubbish)
    book = Ledger(path)
    assert book.named("a.csv") == entry("a.csv", rows=3)
    book.add(entry("c.csv"))
    assert Ledger(path).named("c.csv") == entry("c.csv")
