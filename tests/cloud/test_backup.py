"""An aggregator's folder in one file: taken while it runs, refused where it is damaged, and gone on from."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from federations import DEADLINE, UNINTERRUPTED, world

from fedfleet.cloud.backup import Sealed, backup, restore
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import programs_of, promote, versions
from fedfleet.cloud.schema import DATABASE, VERSION
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Plan, Task, Update


def filled(folder: Path) -> Journal:
    """A journal with rounds 1 to 4 closed, the first named, and two updates counted in round 5."""
    journal = Journal(folder)
    program = journal.blobs.put(b"program")
    for number in range(1, 6):
        journal.open_round(Task(number, program, journal.blobs.put(b"model %d" % (number - 1)), Plan()))
        if number < 5:
            journal.close_round(number, b"model %d" % number, b"moments %d" % number)
        if number == 1:
            promote(folder, "1")
    journal.count(*(Update(5, device, 7, "float32", f"delta of {device}".encode()) for device in "ab"))
    path = programs_of(folder) / program.digest / "program.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return journal


def content(folder: Path) -> dict[str, bytes]:
    """All files but the database and its lock."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.parent != folder}


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A backup of `filled`, which lies in `state`."""
    journal = filled(tmp_path / "state")
    backup(tmp_path / "state", tmp_path / "file")
    journal.close()
    return tmp_path / "file"


def refused(path: Path, text: str) -> None:
    """Nothing is made of the backup `path`, and the folder that it is in stays as it was."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(StoreError, match=text):
        restore(path, path.parent / "new")
    assert sorted(path.parent.iterdir()) == before


def test_what_is_restored_is_what_was_there(taken: Path, tmp_path: Path) -> None:
    restore(taken, tmp_path / "new")
    assert content(tmp_path / "new") == content(tmp_path / "state")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new", "state"]
    assert versions(tmp_path / "new") == versions(tmp_path / "state")
    journal = Journal(tmp_path / "new")
    task = journal.open_task()
    assert task is not None and task.round == 5
    assert [update.delta for update in journal.updates(5)] == [b"delta of a", b"delta of b"]
    assert journal.blobs.get(versions(tmp_path / "new")[0].weights) == b"model 1"
    journal.close_round(5, b"model 5", b"moments 5")
    journal.close()


def test_a_backup_takes_the_place_of_the_last_one_and_a_folder_may_be_there_empty(taken: Path, tmp_path: Path) -> None:
    first = taken.read_bytes()
    journal = Journal(tmp_path / "state")
    journal.abandon_round(5)
    assert backup(tmp_path / "state", taken) == taken.stat().st_size
    assert taken.read_bytes() != first
    journal.close()
    (tmp_path / "new").mkdir()
    restore(taken, tmp_path / "new")
    again = Journal(tmp_path / "new")
    assert (again.open_task(), again.last_round()) == (None, 5)
    again.close()


@pytest.mark.parametrize("last", [0, 3, 7, 10, 13, 17, 22])
def test_a_federation_goes_on_from_a_backup_of_any_moment_to_the_same_bits(last: int) -> None:
    with world() as found:
        for actor in (step % 4 for step in range(last)):
            found.act(actor)
        backup(found.folder / "cloud", found.folder / "file")
        found.cloud_dies()
        shutil.rmtree(found.folder / "cloud")
        restore(found.folder / "file", found.folder / "cloud")
        found.cloud_starts()
        assert found.play() == UNINTERRUPTED


def test_a_federation_goes_on_from_a_backup_of_two_rounds_ago() -> None:
    with world() as found:
        found.until(1)
        backup(found.folder / "cloud", found.folder / "file")
        found.until(3)
        found.cloud_dies()
        shutil.rmtree(found.folder / "cloud")
        restore(found.folder / "file", found.folder / "cloud")
        found.cloud_starts()
        found.play()
        assert found.now < DEADLINE
        assert found.journal.closed_rounds() == 3
        assert [version.round for version in versions(found.folder / "cloud")] == [4, 5, 6]  # numbers only grow


ROUNDS = """
import sys
from itertools import count
from pathlib import Path
from fedfleet.cloud.journal import Journal
from fedfleet.wire.messages import Blob, Plan, Task, Update
journal = Journal(Path(sys.argv[1]))
for i in count(1):
    journal.open_round(Task(i, journal.blobs.put(b"program"), journal.blobs.put(b"model %d" % (i - 1)), Plan()))
    for device in "abc":
        journal.count(Update(i, device, 1, "float32", b"delta of " + device.encode()))
    journal.close_round(i, b"model %d" % i, b"moments %d" % i)
    print(i, flush=True)
"""


def test_a_backup_beside_a_process_that_closes_round_after_round_is_of_one_moment(
    tmp_path: Path, rooms: Callable[..., None]
) -> None:
    command = [sys.executable, "-c", ROUNDS, str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for number in range(10):
            backup(tmp_path / "state", tmp_path / f"{number}")
        os.kill(process.pid, signal.SIGKILL)
    for number in range(10):
        restore(tmp_path / f"{number}", tmp_path / "new")
        journal = Journal(tmp_path / "new")
        found, task = journal.model(), journal.open_task()
        assert found is not None
        assert journal.blobs.get(found.weights) == b"model %d" % found.round
        assert journal.blobs.get(found.moments) == b"moments %d" % found.round
        if task is not None:
            assert task.round == found.round + 1
            assert journal.blobs.get(task.weights.digest) == b"model %d" % found.round
            deltas = [update.delta for update in journal.updates(task.round)]
            assert deltas == [b"delta of a", b"delta of b", b"delta of c"][: len(deltas)]
            journal.count(Update(task.round, "d", 1, "float32", b"delta of d"))
            assert [update.delta for update in journal.updates(task.round)] == [*deltas, b"delta of d"]
        journal.close()
        shutil.rmtree(tmp_path / "new")


def test_a_backup_that_was_cut_off_anywhere_is_refused(taken: Path) -> None:
    data = taken.read_bytes()
    for size in (0, 1, 83, 84, 512, len(data) // 2, len(data) - 84, len(data) - 1):
        taken.write_bytes(data[:size])
        refused(taken, "file is no backup, or cut off or damaged; nothing was restored, take another one")


def test_a_backup_with_one_bit_flipped_anywhere_is_refused(taken: Path) -> None:
    data, chance = taken.read_bytes(), random.Random(1)
    for place in [0, len(data) - 1, len(data) - 30, *(chance.randrange(len(data)) for _ in range(60))]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        taken.write_bytes(flipped)
        refused(taken, "nothing was restored")
    taken.write_bytes(data + b"\n")
    refused(taken, "nothing was restored")


def sealed(path: Path, **members: bytes) -> Path:
    """A whole backup with these members in it."""
    with path.open("wb") as file:
        target = Sealed(file)
        with tarfile.open(fileobj=target, mode="w|") as archive:  # type: ignore[call-overload]
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        target.seal()
    return path


@pytest.mark.parametrize("name", ["../journal.sqlite", "/etc/passwd", "blobs/../../x", "lock", "blobs/x"])
def test_what_does_not_belong_in_a_state_folder_is_not_written(name: str, tmp_path: Path) -> None:
    refused(sealed(tmp_path / "file", **{name: b"x"}), "is no backup of an aggregator .*does not belong there")


def test_a_backup_without_a_database_that_can_be_used_is_refused(taken: Path, tmp_path: Path) -> None:
    refused(sealed(tmp_path / "other"), "no such journal")
    refused(sealed(tmp_path / "other", **{DATABASE: b"not a database, " * 500}), "file is not a database")
    restore(taken, tmp_path / "newer")
    with closing(sqlite3.connect(tmp_path / "newer" / DATABASE)) as database:
        database.execute(f"PRAGMA user_version={VERSION + 1}")
    data = (tmp_path / "newer" / DATABASE).read_bytes()
    refused(
        sealed(tmp_path / "other", **{DATABASE: data}),
        f"has schema {VERSION + 1}, this fedfleet knows {VERSION}; use the newer",
    )


def test_what_is_there_is_not_overwritten(taken: Path, tmp_path: Path) -> None:
    before = content(tmp_path / "state")
    with pytest.raises(StoreError, match="state is there and not empty; restore into a new folder"):
        restore(taken, tmp_path / "state")
    with pytest.raises(StoreError, match="file is there and not empty"):
        restore(taken, taken)
    with pytest.raises(StoreError, match="none: No such file or directory; name a backup"):
        restore(tmp_path / "none", tmp_path / "new")
    with pytest.raises(StoreError, match="Not a directory"):
        restore(taken, taken / "new")
    assert content(tmp_path / "state") == before


@pytest.mark.parametrize("gone", [b"model 4", b"moments 1", b"program"])
def test_a_journal_that_has_lost_something_makes_no_backup(gone: bytes, taken: Path, tmp_path: Path) -> None:
    before, blob = taken.read_bytes(), tmp_path / "state" / "blobs" / Blob.of(gone).digest
    blob.write_bytes(b"rotten")
    with pytest.raises(StoreError, match=f"{blob.name} is damaged; nothing was backed up; restore an older backup"):
        backup(tmp_path / "state", taken)
    blob.unlink()
    with pytest.raises(StoreError, match=f"{blob.name} is missing; nothing was backed up; restore an older backup"):
        backup(tmp_path / "state", taken)
    assert taken.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "state"]


def test_where_nothing_can_be_taken_or_written_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such journal; name the state folder of an aggregator"):
        backup(tmp_path / "none", tmp_path / "file")
    filled(tmp_path / "state").close()
    with pytest.raises(StoreError, match="file cannot be written: No such file or directory; choose another file"):
        backup(tmp_path / "state", tmp_path / "none" / "file")
    (tmp_path / "file").mkdir()
    with pytest.raises(StoreError, match="file cannot be written: Is a directory"):
        backup(tmp_path / "state", tmp_path / "file")
