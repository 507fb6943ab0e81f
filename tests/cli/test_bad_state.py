"""A state folder that cannot be used, or has no room: one line, exit code 2, every file as it was; then it goes on."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from faults.cloud_points import Case, agents, outcome, written
from processes import environment

from fedfleet.cloud.schema import VERSION
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.settings import Broker

ROOM = {"fedadam": (200_000, "cloud/blobs/"), "fedavg": (90_000, "cloud/journal.sqlite: ")}
ROUNDS = 3


def aggregate(settings: Path, room: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `fedfleet aggregate`; no file of it may grow beyond `room` bytes, as on a disk that is full."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room)) if room else None
    command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(settings)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=120, check=False, preexec_fn=limit
    )


def refused(result: subprocess.CompletedProcess[str], *texts: str) -> None:
    """One line on stderr with `texts` in it, and exit code 2; what was logged while it ran comes before."""
    lines = [line for line in result.stderr.splitlines() if "TensorFlow Lite" not in line and " WARNING " not in line]
    assert result.returncode == 2, result
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("fedfleet: ")
    for text in texts:
        assert text in lines[0]


def content(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes, but SQLite's memory of who reads."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running("mosquitto", tmp_path_factory.mktemp("broker")) as found:
        yield found.broker


NOTED = """
import os, signal, sys
from pathlib import Path
from fedfleet.cloud.journal import Journal
from fedfleet.wire.messages import Plan, Task, Update
journal = Journal(Path(sys.argv[1]))
program = journal.blobs.put(Path(sys.argv[2]).read_bytes())
weights = Path(sys.argv[3]).read_bytes()
for number in range(1, 30):
    journal.open_round(Task(number, program, journal.blobs.put(weights), Plan()), "fedavg")
    journal.count(*(Update(number, f"d{i}", 5, "float32", bytes(20)) for i in range(10)))
    if number < 29:
        journal.close_round(number, weights, b"moments")
if sys.argv[4] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
journal.close()
"""


@pytest.fixture
def noted(small: Compiled, tmp_path: Path, rooms: Callable[..., None], broker: Broker) -> Callable[[str], Path]:
    """Return what makes an aggregator's folder with 28 models and a round that is open; settings stand beside it."""

    def make(ending: str) -> Path:
        small.save(tmp_path / "model")
        written(tmp_path, Case("fedavg"), broker, 40)
        blobs = [str(tmp_path / "model" / name) for name in ("program.tflite", "weights.bin")]
        subprocess.run([sys.executable, "-c", NOTED, str(tmp_path / "cloud"), *blobs, ending], check=False)
        assert (tmp_path / "cloud" / "journal.sqlite-wal").exists() is (ending == "killed")
        return tmp_path / "cloud"

    return make


def untouched(state: Path, *texts: str) -> None:
    """The aggregator refuses to start on `state`, and leaves it as it is."""
    before = content(state)
    refused(aggregate(state.parent / "settings.toml"), *texts)
    after = content(state)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


@needs_mosquitto
@pytest.mark.parametrize("ending", ["closed", "killed"])
def test_a_journal_of_a_newer_version(noted: Callable[[str], Path], ending: str) -> None:
    state = noted(ending)
    with closing(sqlite3.connect(state / "journal.sqlite")) as database:
        database.execute(f"PRAGMA user_version={VERSION + 1}")
        if ending == "killed":
            shutil.copytree(state, state.with_name("copy"))  # with the log that closing would move
    if ending == "killed":
        shutil.rmtree(state)
        state.with_name("copy").rename(state)
    untouched(state, f"journal.sqlite has schema {VERSION + 1}, this fedfleet knows {VERSION}; use the newer fedfleet")


@needs_mosquitto
@pytest.mark.parametrize("size", [0, 60, 5000, 40960])
def test_a_truncated_database(noted: Callable[[str], Path], size: int) -> None:
    state = noted("closed")
    os.truncate(state / "journal.sqlite", size)
    untouched(state, "journal.sqlite", "restore a backup")


@needs_mosquitto
@pytest.mark.parametrize("strategy", ROOM)
def test_a_disk_that_fills_mid_round(
    strategy: str, small: Compiled, tmp_path: Path, rooms: Callable[..., None]
) -> None:
    """Moments or database find no room: what was counted stays counted, and a start with room comes to the same bits."""
    whole = filled(small, tmp_path / "whole", strategy)
    assert filled(small, tmp_path / "filled", strategy, *ROOM[strategy]) == whole


def filled(program: Compiled, folder: Path, strategy: str, room: int = 0, text: str = "") -> dict[str, object]:
    """What comes of a federation whose aggregator at first has files of at most `room` bytes, 0 for no bound."""
    folder.mkdir()
    program.save(folder / "model")
    with running("mosquitto", folder) as (broker, _), agents(folder, broker):
        settings = written(folder, Case(strategy, codec="int8"), broker, ROUNDS)
        if room:
            refused(aggregate(settings, room), text, "free the disk")
        result = aggregate(settings)
        assert result.returncode == 0, result.stderr
    return outcome(folder)
