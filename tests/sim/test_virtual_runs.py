"""Whole runs in virtual time: real training on shared interpreters, faults at once, and one seed one run."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import never, weights
from rich.console import Console

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.trainer import Stop
from fedfleet.sim.engines import Place, connected
from fedfleet.sim.record import Run, read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.sim.virtual.boards import SCALE, Attacker, Paced
from fedfleet.sim.virtual.faults import Faults
from fedfleet.sim.virtual.pool import poisoned
from fedfleet.wire.bus import Bus
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Control, Plan, Task, Update
from fedfleet.wire.topics import Topics

WANTED = Simulation(
    devices=8, engine="virtual", faults="storm,nan=0.2,cut=0.1", seed=4, baselines=False,
    rounds=Rounds(total=3, deadline=60.0), plan=Plan(learning_rate=0.02, momentum=0.9, codec="int8"),
)  # fmt: skip


def run(wanted: Simulation, out: Path) -> Run:
    return read(simulate(wanted, out, Console(file=io.StringIO())))


def test_a_run_in_a_storm_is_the_same_again_to_the_last_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = [run(WANTED, tmp_path / name) for name in ("a", "b")]
    assert found[0].rounds == found[1].rounds
    records = found[0].rounds
    assert sum(record.reported < record.called for record in records) > 0
    assert all(record.seconds <= 61 and record.device_rss_mib == 0 for record in records)
    assert found[0].facts.broker == "virtual time, faults: storm,nan=0.2,cut=0.1"
    log = (tmp_path / "a" / found[0].facts.id / "virtual.log").read_text()
    assert " WARNING fedfleet.agent round 3: an update of an earlier round was never counted" in log
    assert not [record for record in caplog.records if record.name.startswith("fedfleet")], "it would bury the screen"
    assert logging.getLogger("fedfleet").propagate


def test_who_learns_from_wrong_labels_learns_the_wrong_thing(tmp_path: Path) -> None:
    found = run(replace(WANTED, faults="labels=1", rounds=Rounds(total=3)), tmp_path)
    assert found.rounds[-1].scores["accuracy"] < 0.08, "digits turned round are hardly ever right"


def test_attackers_by_labels_hold_them_turned_round() -> None:
    parts = [Examples(np.zeros((3, 1), np.float32), np.array([0, 1, 4], np.int32)) for _ in range(6)]
    found = poisoned(parts, Faults(labels=0.5), 0)
    turned = [part.y.tolist() == [4, 3, 0] for part in found]
    assert 0 < sum(turned) < 6
    assert all(part.y.dtype == np.int32 for part in found)
    assert poisoned(parts, Faults(), 0) == parts
    scales = [Examples(part.x, np.array([[0.5], [-1.0], [0.0]], np.float32)) for part in parts]
    assert [part.y.tolist() == [[-0.5], [1.0], [0.0]] for part in poisoned(scales, Faults(labels=0.5), 0)] == turned


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "weights").write_bytes(weights().tobytes())
    blob = Blob.of(weights().tobytes())
    return Task(3, blob, blob, Plan())


def test_training_takes_its_time_and_is_begun_once(tmp_path: Path, task: Task) -> None:
    now, begun, path = [100.0], list[int](), tmp_path / "weights"

    def begin(round_: int) -> float:
        begun.append(round_)
        return 20.0

    paced = Paced(Measured(), lambda: now[0], begin)
    for now[0] in (100.0, 110.0, 119.9):
        assert paced.train(task, path, path, never) is None
    assert paced.until == 120.0
    now[0] = 120.0
    update = paced.train(task, path, path, never)
    assert update is not None
    assert "rss_mib" not in update.metrics
    assert update.metrics["seconds"] == 20.0
    assert update.metrics["loss"] == 1.0
    assert begun == [3]
    assert paced.train(replace(task, round=4), path, path, never) is None
    assert (begun, paced.until) == ([3, 4], 140.0)


@pytest.mark.parametrize(
    ("kind", "factor"), [("sign", -1.0), ("scale", SCALE), ("reverse", -SCALE), ("free", 0.0), ("nan", np.nan)]
)
def test_an_attacker_sends_something_else(tmp_path: Path, task: Task, kind: str, factor: float) -> None:
    path = tmp_path / "weights"
    honest = SeededTrainer("d1").train(task, path, path, never)
    forged = Attacker(SeededTrainer("d1"), kind).train(task, path, path, never)
    assert honest is not None
    assert forged is not None
    learned, sent = (np.frombuffer(update.delta, "<f4") for update in (honest, forged))
    np.testing.assert_array_equal(sent, learned * np.float32(factor))
    assert (forged.round, forged.device, forged.examples) == (3, "d1", 10)
    assert Attacker(SeededTrainer("d1"), kind).train(task, path, path, lambda: True) is None


def test_a_fleet_that_never_comes_together_is_given_up(tmp_path: Path) -> None:
    federation = Federation(b"p", weights(), strategy("fedavg"), Plan(), Rounds(devices=2), 0, "fedavg")

    def build(bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
        return Aggregator(federation, Topics("lost"), bus, journal, clock)

    with connected("virtual", "", Place("lost", 2, tmp_path, 0, "lose=1")) as (drive, broker):
        assert broker == "virtual time, faults: lose=1"
        with pytest.raises(SettingsError, match="nothing for a virtual week: 0 of 2 devices are there"):
            drive(build, lambda _, __: None)


def test_an_attacker_forges_the_control_as_well(tmp_path: Path, task: Task) -> None:
    path = tmp_path / "weights"
    both = replace(task, control=Control(task.weights, 1))
    forged = Attacker(Twofold(), "sign").train(both, path, path, never)
    assert forged is not None
    assert np.frombuffer(forged.delta, "<f4").tolist() == [-1.0] * 2 * weights().size


class Measured(SeededTrainer):
    """A trainer that says what this machine took for it."""

    def __init__(self) -> None:
        super().__init__("d1")

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        update = super().train(task, program, weights, stop)
        return update and replace(update, metrics={**update.metrics, "seconds": 0.1, "rss_mib": 99.0})


class Twofold:
    """A trainer with a control variate: it moves both by 1."""

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        size = 2 * task.weights.size // 4
        return Update(task.round, "d1", 10, "float32", np.ones(size, "<f4").tobytes())

    def close(self) -> None: ...
