"""The journal's database: older ones are brought up whole or not at all, and others read beside the one that writes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fedfleet.cloud import schema
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import versions
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Plan, Task

VERSION_2 = Path(__file__).with_name("journal-2.sql").read_text()  # five rounds, noted by the fedfleet before


def older(folder: Path) -> Path:
    """The folder of version 2 that the dump is of: rounds 2 to 4 kept, two updates counted in round 5."""
    for name in ("blobs", "updates"):
        (folder / name).mkdir(parents=True)
    with closing(sqlite3.connect(folder / "journal.sqlite")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(VERSION_2)
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


def test_a_journal_of_version_2_goes_on_where_it_was(tmp_path: Path) -> None:
    journal = Journal(older(tmp_path))
    found, task = journal.model(), journal.open_task()
    assert found is not None and task is not None
    assert (found.round, journal.get(found.weights), journal.get(found.moments)) == (4, b"model 4", b"moments 4")
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
    journal.close()


def test_the_database_as_it_was_stays_beside(tmp_path: Path) -> None:
    Journal(older(tmp_path)).close()
    assert "\n".join(dump(tmp_path / "journal.sqlite.v2")) == VERSION_2.strip()
    assert dump(tmp_path / "journal.sqlite")[0] == f"PRAGMA user_version={schema.VERSION};"
    (tmp_path / "journal.sqlite.v2").unlink()
    Journal(tmp_path).close()
    assert not (tmp_path / "journal.sqlite.v2").exists()


def test_a_new_database_is_like_one_that_was_brought_up(tmp_path: Path) -> None:
    Journal(older(tmp_path / "old")).close()
    Journal(tmp_path / "new").close()
    assert shape(tmp_path / "old" / "journal.sqlite") == shape(tmp_path / "new" / "journal.sqlite")


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = older(tmp_path) / "journal.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE marks (in_the_way TEXT)")  # the last thing that the step makes
    before = dump(path)
    with pytest.raises(StoreError, match="table marks already exists"):
        Journal(tmp_path)
    assert dump(path) == before
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE marks")
    Journal(tmp_path).close()


def test_readers_leave_an_older_journal_as_it_is(tmp_path: Path) -> None:
    path = older(tmp_path) / "journal.sqlite"
    with pytest.raises(
        StoreError, match=f"has schema 2, this fedfleet knows {schema.VERSION}; start its aggregator once"
    ):
        versions(tmp_path)
    assert "\n".join(dump(path)) == VERSION_2.strip()
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


def test_a_reader_in_the_middle_keeps_no_round_from_closing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with schema.beside(tmp_path) as reader:
        assert reader.execute("SELECT count(*) FROM rounds").fetchone() == (0,)
        journal.open_round(Task(1, Blob.of(b"program"), Blob.of(b"model"), Plan()))
        journal.close_round(1, b"model 1", b"moments")
        assert reader.execute("SELECT count(*) FROM rounds").fetchone() == (0,)
    assert [version.round for version in versions(tmp_path)] == [1]
    journal.close()
