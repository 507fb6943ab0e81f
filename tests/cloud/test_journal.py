"""The journal: whatever it said is noted is there again, after any end."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedfleet.cloud.journal import Journal
from fedfleet.cloud.schema import VERSION
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Plan, Task, Update


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path / "j")
    yield found
    found.close()


def task(number: int = 1) -> Task:
    return Task(number, Blob("a" * 64, 9), Blob("b" * 64, 16), Plan(epochs=2), seed=3, deadline=5.5)


def update(device: str, number: int = 1) -> Update:
    data = random.Random(f"{device}{number}").randbytes(32)
    return Update(number, device, 7, "float32", data, {"loss": 0.5, "down": 12.0})


def reopened(journal: Journal, folder: Path) -> Journal:
    journal.close()
    return Journal(folder)


def test_blobs_come_back_by_their_name(journal: Journal) -> None:
    blob = journal.blobs.put(b"weights")
    assert blob == Blob.of(b"weights")
    assert journal.blobs.put(b"weights") == blob
    assert journal.blobs.get(blob.digest) == b"weights"


@pytest.mark.parametrize("rot", [lambda path: path.write_bytes(b"weightz"), lambda path: path.unlink()])
def test_a_blob_that_has_rotted_or_gone_is_named(journal: Journal, tmp_path: Path, rot: Callable[[Path], None]) -> None:
    blob = journal.blobs.put(b"weights")
    rot(tmp_path / "j" / "blobs" / blob.digest)
    with pytest.raises(StoreError, match=rf"j/blobs/{blob.digest} is missing or damaged; restore a backup"):
        journal.blobs.get(blob.digest)


def test_each_difference_stands_behind_the_last_in_whatever_round_and_life(journal: Journal, tmp_path: Path) -> None:
    """Where a round's file ends is remembered, and found out again for another round or after a new start."""
    journal.open_round(task(1))
    journal.count(update("a"), update("b"))
    journal.count(Update(1, "a", 9, "float32", b"the same device again"), update("c"))
    journal.count(update("z", 2))
    journal.count(update("d"))
    journal = reopened(journal, tmp_path / "j")
    journal.count(update("e"))
    assert {found.device: found.delta for found in journal.updates(1)} == {
        device: update(device).delta for device in "abcde"
    }
    assert [found.delta for found in journal.updates(2)] == [update("z", 2).delta]
    journal.close()


def test_rounds_and_updates_survive_a_new_start(journal: Journal, tmp_path: Path) -> None:
    assert (journal.model(), journal.open_task(), journal.last_round(), journal.closed_rounds()) == (None, None, 0, 0)
    journal.open_round(task(1))
    for device in ("b", "a"):
        journal.count(update(device))
    again = reopened(journal, tmp_path / "j")
    assert again.open_task() == task(1)
    assert list(again.updates(1)) == [update("a"), update("b")]
    again.close_round(1, b"new weights", b"moments")
    again.open_round(task(2))
    again.abandon_round(2)
    third = reopened(again, tmp_path / "j")
    model = third.model()
    assert model is not None
    assert (model.round, third.blobs.get(model.weights), third.blobs.get(model.moments)) == (
        1,
        b"new weights",
        b"moments",
    )
    assert (third.open_task(), third.last_round(), third.closed_rounds()) == (None, 2, 1)
    assert third.ended_task() == task(2)
    third.close()


def test_an_update_is_noted_once_per_device_and_round(journal: Journal) -> None:
    journal.open_round(task(1))
    journal.count(update("a"))
    journal.count(Update(1, "a", 99, "float32", b"othr"))
    journal.count(update("a", 2))
    assert list(journal.updates(1)) == [update("a")]
    assert list(journal.updates(2)) == [update("a", 2)]


@pytest.mark.parametrize("ending", ["closed", "abandoned"])
def test_differences_are_dropped_with_their_round_and_models_kept(
    journal: Journal, tmp_path: Path, ending: str
) -> None:
    journal.open_round(task(1))
    for device in "ab":
        journal.count(update(device))
    if ending == "closed":
        journal.close_round(1, update("a").delta, b"moments")  # the model has the bytes of a difference
        assert journal.blobs.get(Blob.of(update("a").delta).digest) == update("a").delta
        assert len(list((tmp_path / "j" / "blobs").iterdir())) == 2
    else:
        journal.abandon_round(1)
        assert list((tmp_path / "j" / "blobs").iterdir()) == []


OPEN = "import sys; from pathlib import Path; from fedfleet.cloud.journal import Journal; Journal(Path(sys.argv[1]))"


def test_a_second_process_is_refused_in_one_line(journal: Journal, tmp_path: Path, rooms: Callable[..., None]) -> None:
    journal.open_round(task(1))
    second = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "j")], capture_output=True, text=True, timeout=60, check=False
    )
    last = second.stderr.strip().splitlines()[-1]
    assert second.returncode == 1
    assert last.startswith("fedfleet.wire.errors.StoreError: ")
    assert last.endswith("j is in use; is another aggregator using this folder? stop it first")
    assert journal.open_task() == task(1)
    with pytest.raises(StoreError, match="is another aggregator using this folder"):
        Journal(tmp_path / "j")


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_journal_of_a_newer_version_is_refused_untouched(tmp_path: Path, mode: str) -> None:
    Journal(tmp_path).close()
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute(f"PRAGMA user_version={VERSION + 1}")
    database.close()
    before = content(tmp_path)
    with pytest.raises(StoreError, match=f"has schema {VERSION + 1}, this fedfleet knows {VERSION}; use the newer"):
        Journal(tmp_path)
    assert content(tmp_path) == before


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, " * 500)
    with pytest.raises(StoreError, match=r"journal.sqlite is damaged: file is not a database; restore a backup"):
        Journal(tmp_path)


def test_damage_that_shows_only_later_is_named_too(tmp_path: Path) -> None:
    whole = Journal(tmp_path)
    for number in range(1, 200):
        whole.open_round(task(number))
    whole.close()
    path = tmp_path / "journal.sqlite"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    rotten = Journal(tmp_path)
    with pytest.raises(StoreError, match=r"journal.sqlite: database disk image is malformed; free the disk or restore"):
        rotten.closed_rounds()
    rotten.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/j cannot be made: Not a directory; choose a state folder"):
        Journal(tmp_path / "file" / "j")
    (tmp_path / "j" / "journal.sqlite").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"journal.sqlite: unable to open database file"):
        Journal(tmp_path / "j")


COUNT = """
import sys
from itertools import count
from pathlib import Path
from fedfleet.cloud.journal import Journal
from fedfleet.wire.messages import Update
journal = Journal(Path(sys.argv[1]))
for i in count():
    journal.count(Update(1, f"d{i}", i + 1, "float32", b"delta %d" % i))
    print(i, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 17, 60])
def test_kill_9_loses_nothing_that_was_counted(tmp_path: Path, rooms: Callable[..., None], lines: int) -> None:
    with subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        counted = lines + len(process.stdout.read().split())
    journal = Journal(tmp_path)
    found = {update.device: update for update in journal.updates(1)}
    assert counted <= len(found) <= counted + 1  # the last one may have been counted without having been printed
    for i in range(counted):
        assert found[f"d{i}"] == Update(1, f"d{i}", i + 1, "float32", b"delta %d" % i)
    journal.close()
