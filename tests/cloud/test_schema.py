"""The journal's database: older ones are brought up whole or not at all, and others read beside the one that writes."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest

from fedfleet.cloud import schema
from fedfleet.cloud.fleet import devices, fleet
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.notes import Standing
from fedfleet.cloud.registry import versions
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Plan, Task

DUMPS = {n: Path(__file__).with_name(f"journal-{n}.sql").read_text() for n in (2, 3)}  # noted by those fedfleets


def older(folder: Path, version: int = 2) -> Path:
    """The folder that the dumps are of: five rounds, 2 to 4 kept, two updates counted in the last."""
    for name in ("blobs", "updates"):
        (folder / name).mkdir(parents=True)
    with closing(sqlite3.connect(folder / "journal.sqlite")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(DUMPS[version])
    for data in (b"program", *(text % n for n in (2, 3, 4) for text in (b"model %d", b"moments %d"))):
        (folder / "blobs" / Blob.of(data).digest).write_bytes(data)
    (folder / "updates" / "5").write_bytes(b"delta 5 of adelta 5 of b")
    return folder


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        return [f"PRAGMA user_version={version};", *database.iterdump()]


def shape(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


@pytest.mark.parametrize("version", DUMPS)
def test_an_older_journal_goes_on_where_it_was(tmp_path: Path, version: int) -> None:
    journal = Journal(older(tmp_path, version))
    found, task = journal.model(), journal.open_task()
    assert found is not None and task is not None
    assert {each.training for each in versions(tmp_path)} == {None}
    assert (found.round, journal.blobs.get(found.weights), journal.blobs.get(found.moments)) == (
        4,
        b"model 4",
        b"moments 4",
    )
    assert (task.round, task.seed, task.plan, journal.closed_rounds()) == (5, 3, Plan(epochs=2), 4)
    assert [(update.device, update.examples, update.delta) for update in journal.updates(5)] == [
        ("a", 10, b"delta 5 of a"),
        ("b", 20, b"delta 5 of b"),
    ]
    journal.close_round(5, b"model 5", b"moments 5")
    lineage = [(version.round, version.kept, version.weights) for version in versions(tmp_path)]
    known = [(n, n > 2, Blob.of(b"model %d" % n).digest) for n in range(2, 6)]
    assert lineage == [(1, False, ""), *known]  # what the first came to, version 2 has forgotten
    assert {version.examples for version in versions(tmp_path)} == {30}
    if version == 3:
        assert (versions(tmp_path)[3].names, versions(tmp_path)[3].scores) == (("promoted",), {"loss": 0.25})
    journal.close()


def test_what_an_older_journal_does_not_know_of_its_fleet_is_empty(tmp_path: Path) -> None:
    Journal(older(tmp_path, 3)).close()
    found = fleet(tmp_path)
    assert (found.state, found.closed, found.now, found.states) == ("stopped", 4, Standing(), {})
    assert [(each.round, each.state, each.called, each.reported, each.examples) for each in found.rounds] == [
        (number, "closed", 0, 2, 30) for number in range(1, 5)
    ]
    assert devices(tmp_path) == []


@pytest.mark.parametrize("version", DUMPS)
def test_the_database_as_it_was_stays_beside(tmp_path: Path, version: int) -> None:
    Journal(older(tmp_path, version)).close()
    kept = tmp_path / f"journal.sqlite.v{version}"
    assert "\n".join(dump(kept)) == DUMPS[version].strip()
    assert dump(tmp_path / "journal.sqlite")[0] == f"PRAGMA user_version={schema.VERSION};"
    kept.unlink()
    Journal(tmp_path).close()
    assert not kept.exists()


@pytest.mark.parametrize("version", DUMPS)
def test_a_new_database_is_like_one_that_was_brought_up(tmp_path: Path, version: int) -> None:
    Journal(older(tmp_path / "old", version)).close()
    Journal(tmp_path / "new").close()
    assert shape(tmp_path / "old" / "journal.sqlite") == shape(tmp_path / "new" / "journal.sqlite")


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = older(tmp_path) / "journal.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE standing (in_the_way TEXT)")  # the last table that the steps make
    before = dump(path)
    with pytest.raises(StoreError, match="table standing already exists"):
        Journal(tmp_path)
    assert dump(path) == before
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE standing")
    Journal(tmp_path).close()


def test_readers_leave_an_older_journal_as_it_is(tmp_path: Path) -> None:
    path = older(tmp_path) / "journal.sqlite"
    with pytest.raises(
        StoreError, match=f"has schema 2, this fedfleet knows {schema.VERSION}; start its aggregator once"
    ):
        versions(tmp_path)
    assert "\n".join(dump(path)) == DUMPS[2].strip()
    newer = schema.VERSION + 1
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version={newer}")
    with pytest.raises(
        StoreError, match=f"has schema {newer}, this fedfleet knows {schema.VERSION}; use the newer fedfleet"
    ):
        versions(tmp_path)


def test_no_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"journal.sqlite: no such journal; name the state folder of an aggregator"):
        versions(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, " * 500)
    with pytest.raises(StoreError, match=r"journal.sqlite: file is not a database"):
        versions(tmp_path)


HOLD = """
import sys
from pathlib import Path
from fedfleet.cloud.journal import Journal
from fedfleet.wire.messages import Blob, Plan, Task
journal = Journal(Path(sys.argv[1]))
for number, line in enumerate(sys.stdin, 1):
    journal.open_round(Task(number, Blob.of(b"program"), Blob.of(b"model"), Plan()), "fedavg")
    journal.close_round(number, b"model %d" % number, b"moments")
    print(number, flush=True)
"""


def test_others_read_while_one_process_writes_and_none_may_write_beside_it(
    tmp_path: Path, rooms: Callable[..., None]
) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in (1, 2):
            process.stdin.write("next\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{number}\n"
            assert [version.round for version in versions(tmp_path)] == list(range(1, number + 1))
        with pytest.raises(StoreError, match="is another aggregator using this folder"):
            Journal(tmp_path)
        process.kill()
    journal = Journal(tmp_path)  # its lock went with the process
    assert journal.closed_rounds() == 2
    journal.close()


def test_who_asks_whether_a_folder_is_held_keeps_nobody_out(tmp_path: Path) -> None:
    assert not schema.is_held(tmp_path)
    journal = Journal(tmp_path)
    assert schema.is_held(tmp_path)
    journal.close()
    assert not schema.is_held(tmp_path)
    handle = os.open(tmp_path / schema.LOCK, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as who asks does, for a moment
    other = Timer(schema.LOOK, os.close, (handle,))
    other.start()
    Journal(tmp_path).close()
    other.join()


def test_a_reader_in_the_middle_keeps_no_round_from_closing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with schema.beside(tmp_path) as reader:
        assert reader.execute("SELECT count(*) FROM rounds").fetchone() == (0,)
        journal.open_round(Task(1, Blob.of(b"program"), Blob.of(b"model"), Plan()))
        journal.close_round(1, b"model 1", b"moments")
        assert reader.execute("SELECT count(*) FROM rounds").fetchone() == (0,)
    assert [version.round for version in versions(tmp_path)] == [1]
    journal.close()
