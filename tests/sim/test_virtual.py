"""A fleet in virtual time: nothing goes wrong, and the model is that of any other engine; one seed, one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from federations import PROGRAM, SEED, UNINTERRUPTED, sha256, weights

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.sim.virtual.clock import Clock
from fedfleet.sim.virtual.cloud import TURN
from fedfleet.sim.virtual.faults import KNOWN, Faults
from fedfleet.sim.virtual.fleet import VirtualFleet
from fedfleet.wire.bus import Bus
from fedfleet.wire.messages import Plan
from fedfleet.wire.topics import Topics

TOPICS = Topics("test")
DAY = 86400.0


@contextmanager
def federation(rounds: Rounds, faults: Faults, seed: int = 0) -> Iterator[tuple[VirtualFleet, list[RoundRecord]]]:
    records: list[RoundRecord] = []

    def build(bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
        wanted = Federation(PROGRAM, weights(), strategy("fedavg"), Plan(), rounds, SEED, "fedavg")
        return Aggregator(wanted, TOPICS, bus, journal, clock, None, records.append)

    def trainer(device: str, _: Path) -> SeededTrainer:
        return SeededTrainer(device, 10 * int(device[1:]) + 10)

    with TemporaryDirectory() as folder:
        fleet = VirtualFleet(Path(folder), rounds.devices, TOPICS, build, trainer, faults, seed)
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
