"""The journal's folder does not grow with the rounds, and loses nothing that a new start needs."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from federations import ALL, DEADLINE, fedavg, world

from fedfleet.cloud.journal import KEPT, Journal
from fedfleet.cloud.registry import versions
from fedfleet.cloud.settings import Rounds
from fedfleet.wire.messages import Blob, Patch, Plan, Task, Update

PROGRAM = Blob.of(b"program")


def model(number: int) -> bytes:
    return b"model %d" % number


def play(journal: Journal, number: int) -> None:
    """Round `number` from the model before, as the aggregator does it."""
    weights = journal.blobs.put(model(number - 1))
    journal.open_round(Task(number, PROGRAM, weights, Plan()))
    journal.close_round(number, model(number), b"moments %d" % number)


def held(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / "blobs").iterdir()}


def test_only_the_newest_models_stay(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.blobs.put(b"program")
    for number in range(1, 8):
        play(journal, number)
        assert len(held(tmp_path)) <= 2 * KEPT + 2
    assert held(tmp_path) == {b"program", *map(model, (5, 6, 7)), b"moments 5", b"moments 6", b"moments 7"}
    found = journal.model()
    assert found is not None
    assert (found.round, journal.blobs.get(found.weights), journal.blobs.get(found.moments)) == (
        7,
        model(7),
        b"moments 7",
    )
    assert (journal.closed_rounds(), journal.last_round()) == (7, 7)
    journal.close()
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    named = database.execute("SELECT round FROM rounds WHERE weights IS NOT NULL").fetchall()
    database.close()
    assert named == [(5,), (6,), (7,)]  # no work for the hundredth round that the tenth has done


def test_what_an_older_round_shares_with_a_newer_one_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(1, 8):
        journal.open_round(Task(number, PROGRAM, journal.blobs.put(b"same"), Plan()))
        journal.close_round(number, b"same", b"none")
    assert held(tmp_path) == {b"same", b"none"}
    journal.close()


def test_abandoned_rounds_keep_the_model_that_they_began_from(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(1, 5):
        play(journal, number)
    for number in range(5, 25):
        journal.open_round(Task(number, PROGRAM, journal.blobs.put(model(4)), Plan()))
        journal.abandon_round(number)
    task = Task(25, PROGRAM, journal.blobs.put(model(4)), Plan())
    journal.open_round(task)
    assert journal.blobs.get(task.weights.digest) == model(4)
    assert {model(2), model(3), model(4)} < held(tmp_path)
    journal.close()


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
def test_a_removal_that_was_cut_off_is_done_by_the_next_round(gone: int, tmp_path: Path) -> None:
    """An end after `gone` of a round's three blobs, before the round forgot their names: as after 40 rounds without."""
    journal = Journal(tmp_path)
    for number in range(1, 5):
        play(journal, number)
    journal.close()
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    named = (Blob.of(model(1)).digest, Blob.of(b"moments 1").digest)
    database.execute("UPDATE rounds SET weights = ?, moments = ? WHERE round = 1", named)
    database.commit()
    database.close()
    for data in (model(0), model(1), b"moments 1")[gone:]:
        (tmp_path / "blobs" / Blob.of(data).digest).write_bytes(data)
    again = Journal(tmp_path)
    found = again.model()
    assert found is not None
    assert again.blobs.get(found.weights) == model(4)
    play(again, 5)
    assert held(tmp_path) == {*map(model, (3, 4, 5)), b"moments 3", b"moments 4", b"moments 5"}
    again.close()


def test_abandoned_rounds_leave_no_weights_behind(tmp_path: Path) -> None:
    """With a codec on the way down each round names weights of its own, and a patch to them."""
    journal = Journal(tmp_path)
    play(journal, 1)
    for number in range(2, 12):
        patch = Patch("a" * 64, "int8", journal.blobs.put(b"patch %d" % number))
        journal.open_round(Task(number, PROGRAM, journal.blobs.put(b"published %d" % number), Plan(), patch=patch))
        assert len(held(tmp_path)) <= 6
        journal.abandon_round(number)
    assert held(tmp_path) == {model(1), b"moments 1", b"published 11", b"patch 11"}  # the next patch starts from those
    journal.close()


def test_of_the_updates_of_older_rounds_only_the_lineage_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(1, 8):
        journal.open_round(Task(number, PROGRAM, journal.blobs.put(model(number - 1)), Plan()))
        journal.count(*(Update(number, device, 5, "float32", b"delta", {"loss": 1.0}) for device in "ab"))
        if number in (2, 6):
            journal.abandon_round(number)
        else:
            journal.close_round(number, model(number), b"moments %d" % number)
    journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        rows = database.execute("SELECT round, delta != '', metrics FROM updates GROUP BY round").fetchall()
    assert rows == [(n, 0, "{}") if n < 4 else (n, 1, '{"loss": 1.0}') for n in range(1, 8)]
    assert [version.contributors for version in versions(tmp_path)] == [{"a": 5, "b": 5}] * 5


def test_what_an_end_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    program = journal.blobs.put(b"program")
    for number in (1, 2):
        journal.open_round(Task(number, program, journal.blobs.put(model(number - 1)), Plan()))
        journal.count(Update(number, "a", 1, "float32", b"delta"))
        if number == 1:
            journal.close_round(1, model(1), b"moments 1")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert [path.name for path in (tmp_path / "updates").iterdir()] == ["2"]
    journal.blobs.put(b"model of a round that was never closed")
    (tmp_path / "updates" / "1").write_bytes(b"deltas of a round that is over")
    (tmp_path / "blobs" / f".{'b' * 64}.tmp").write_bytes(b"half of a mod")
    journal.close()
    again = Journal(tmp_path)
    again.blobs.put(b"new program")  # of an aggregator that has another, before the round that names it
    again.tidy()
    new = Path("blobs", Blob.of(b"new program").digest)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before | {new}
    assert [update.delta for update in again.updates(2)] == [b"delta"]
    again.close()


ROUNDS = """
import sys
from itertools import count
from pathlib import Path
from fedfleet.cloud.journal import Journal
from fedfleet.wire.messages import Blob, Plan, Task
journal = Journal(Path(sys.argv[1]))
for i in count(1):
    journal.open_round(Task(i, Blob.of(b"program"), journal.blobs.put(b"model %d" % (i - 1)), Plan()))
    journal.close_round(i, b"model %d" % i, b"moments %d" % i)
    print(i, flush=True)
"""


@pytest.mark.parametrize("lines", [3, 8, 21])
def test_kill_9_leaves_the_newest_model_and_the_open_task(
    lines: int, tmp_path: Path, rooms: Callable[..., None]
) -> None:
    with subprocess.Popen([sys.executable, "-c", ROUNDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        done = lines + len(process.stdout.read().split())
    journal = Journal(tmp_path)
    found, task = journal.model(), journal.open_task()
    assert found is not None
    assert found.round in (done, done + 1)
    assert (journal.blobs.get(found.weights), journal.blobs.get(found.moments)) == (
        model(found.round),
        b"moments %d" % found.round,
    )
    assert task is None or journal.blobs.get(task.weights.digest) == model(task.round - 1)
    journal.close()


@pytest.mark.parametrize("seed", range(3))
def test_an_aggregator_dropped_in_any_of_many_rounds_comes_to_the_same_weights(seed: int) -> None:
    total, chance = 2 * KEPT + 2, random.Random(seed)
    with world(rounds=Rounds(total=total, devices=3, deadline=DEADLINE)) as found:
        for _ in range(3000):
            if found.cloud.done:
                break
            if chance.random() < 0.05:
                found.cloud_dies()
                found.cloud_starts()
            found.act(chance.randrange(4))
        assert found.digest == fedavg(dict.fromkeys(range(1, total + 1), ALL))
        assert len(held(found.folder / "cloud")) <= KEPT + 2  # with the program, and moments that are all alike
