"""A fleet in virtual time: nothing goes wrong, and the model is that of any other engine; one seed, one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from faults.seeds import RAM
from federations import PROGRAM, SEED, UNINTERRUPTED, sha256, weights

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.sim.virtual.clock import Clock
from fedfleet.sim.virtual.cloud import TURN
from fedfleet.sim.virtual.crowd import called
from fedfleet.sim.virtual.faults import KNOWN, Faults
from fedfleet.sim.virtual.fleet import VirtualFleet
from fedfleet.wire.bus import Bus
from fedfleet.wire.messages import Blob, Plan, Task
from fedfleet.wire.topics import Topics

TOPICS = Topics("test")
DAY = 86400.0


@contextmanager
def federation(
    rounds: Rounds, faults: Faults, seed: int = 0, awake: int = 5000
) -> Iterator[tuple[VirtualFleet, list[RoundRecord]]]:
    records: list[RoundRecord] = []

    def build(bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
        there = (rounds.devices + 1) // 2 if faults.lose else rounds.devices  # births get lost as well
        begun = replace(rounds, devices=there)
        wanted = Federation(PROGRAM, weights(), strategy("fedavg"), Plan(), begun, SEED, "fedavg")
        return Aggregator(wanted, TOPICS, bus, journal, clock, None, records.append)

    def trainer(device: str, _: Path) -> SeededTrainer:
        return SeededTrainer(device, 10 * int(device[1:]) + 10)

    with TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as folder:
        fleet = VirtualFleet(
            Path(folder), rounds.devices, TOPICS, build, trainer, faults, seed, lambda _, __: None, awake
        )
        try:
            yield fleet, records
        finally:
            fleet.close()


def model(fleet: VirtualFleet) -> str:
    assert fleet.cloud.aggregator is not None
    return sha256(fleet.cloud.aggregator.weights.astype("<f4").tobytes())


def test_without_faults_the_model_is_that_of_plain_arithmetic() -> None:
    with federation(Rounds(total=3, devices=3), Faults()) as (fleet, records):
        assert fleet.play(DAY)
        assert model(fleet) == UNINTERRUPTED
        assert [(record.reported, record.state) for record in records] == [(3, "closed")] * 3
        assert all(2 < record.seconds < 15 for record in records), "training takes its time, and little else does"


def test_one_seed_gives_one_run_and_another_seed_another() -> None:
    found = []
    for seed in (1, 1, 2):
        with federation(Rounds(total=3, devices=4, deadline=100), KNOWN["storm"], seed) as (fleet, records):
            assert fleet.play(DAY)
            found.append((fleet.trail, records))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_dropouts_and_stragglers_hold_no_round_beyond_its_deadline() -> None:
    faults = Faults(dropout=0.3, straggler=0.2, training=10.0)
    with federation(Rounds(total=100, devices=10, quorum=2, deadline=120), faults) as (fleet, records):
        assert fleet.play(30 * DAY)
    assert len(records) >= 100
    assert max(record.seconds for record in records) <= 120 + TURN
    assert sum(record.reported < record.called for record in records) > 50
    assert sum(record.reported for record in records) > 400


def test_a_killed_aggregator_goes_on_to_the_same_model() -> None:
    with federation(Rounds(total=3, devices=3), Faults(kill=1.0)) as (fleet, _):
        assert fleet.play(DAY)
        assert fleet.cloud.kills >= 2
        assert model(fleet) == UNINTERRUPTED


def test_devices_that_lose_power_count_all_the_same() -> None:
    with federation(Rounds(total=3, devices=3), Faults(reboot=0.5)) as (fleet, _):
        assert fleet.play(DAY)
        starts = [board.starts for board in fleet.boards]
        assert max(starts) > 1
        assert model(fleet) == UNINTERRUPTED


@pytest.mark.parametrize("attack", ["sign", "scale", "free", "nan"])
def test_attackers_move_the_model_but_for_those_that_are_refused(attack: str) -> None:
    with federation(Rounds(total=1, devices=4), Faults(**{attack: 0.5}), seed=3) as (fleet, records):
        assert fleet.play(DAY)
        forged = sum(fleet.air.faults.attack(3, board.device) == attack for board in fleet.boards)
        assert 0 < forged < 4
        assert records[0].reported == (4 - forged if attack == "nan" else 4)
        moved = model(fleet)
    with federation(Rounds(total=1, devices=4), Faults(), seed=3) as (fleet, records):
        assert fleet.play(DAY)
        assert moved != model(fleet)


def test_who_is_away_is_not_waited_for_and_comes_back() -> None:
    with federation(Rounds(total=40, devices=5, quorum=1, deadline=200), Faults(away=0.4, training=60)) as (
        fleet,
        records,
    ):
        assert fleet.play(DAY)
    assert {record.called for record in records} >= {5}
    assert any(record.called < 5 for record in records)


def test_events_at_one_time_happen_in_the_order_of_planning() -> None:
    clock, seen = Clock(), list[str]()
    clock.at(2.0, lambda: seen.append("late"))
    for name in ("first", "second"):
        clock.at(1.0, lambda name=name: seen.append(name))  # type: ignore[misc]
    clock.at(1.0, lambda: clock.at(0.0, lambda: seen.append("now, for that is over")))
    while clock.step():
        pass
    assert seen == ["first", "second", "now, for that is over", "late"]
    assert clock() == 2.0


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_crowd_comes_to_the_same_model_and_leaves_nothing_behind(share: float) -> None:
    """Called in succession too, while the receipt of the round before is still on its way."""
    models = []
    for awake in (0, 5000):
        with federation(Rounds(total=8, devices=12, share=share), Faults(), 5, awake) as (fleet, records):
            assert fleet.play(DAY)
            assert [record.reported for record in records] == [record.called for record in records]
            assert all(record.seconds < 15 for record in records)
            models.append((model(fleet), [record.called for record in records]))
            left = fleet.crowd.boards if fleet.crowd else {}
            while left and fleet.clock.step():
                pass
            assert not left
            assert awake or not list(fleet.crowd.folder.iterdir())
    assert models[0] == models[1]


def test_who_is_called_is_what_each_device_says_itself() -> None:
    blob = Blob.of(b"x")
    task = Task(7, blob, blob, Plan(), share=0.3)
    found = called(task, 300)
    assert found == [name for name in (f"d{i}" for i in range(300)) if task.calls(name)]
    assert 60 < len(found) < 120


def test_only_those_who_are_called_are_awake() -> None:
    with federation(Rounds(total=2, devices=1000, share=0.03), Faults(), 0, 100) as (fleet, records):
        assert fleet.crowd is not None
        most = 0
        while not fleet.done:
            fleet.clock.step()
            most = max(most, len(fleet.crowd.boards))
        assert fleet.boards == []
        assert 10 < most <= sum(record.called for record in records)
        assert sum(record.reported for record in records) == sum(record.called for record in records)


def test_a_crowd_in_a_storm_is_the_same_again_and_keeps_its_deadlines() -> None:
    found = []
    for _ in range(2):
        rounds = Rounds(total=3, devices=40, share=0.3, quorum=3, deadline=100)
        with federation(rounds, KNOWN["storm"], 3, 10) as (fleet, records):
            assert fleet.play(DAY)
            found.append((fleet.trail, max(record.seconds for record in records)))
    assert found[0] == found[1]
    assert found[0][1] <= 100 + TURN
