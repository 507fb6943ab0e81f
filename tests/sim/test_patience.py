"""A run that gets nowhere ends by itself and says why: with real agents, and the rules alone."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fedfleet.cli.aggregate import line
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.settings import Rounds
from fedfleet.sim.patience import FRUITLESS, Patience
from fedfleet.sim.record import read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan

CLOSED = RoundRecord(1, "closed", "all", 2, 2, 0, 9, 0.5, 1, 1, 0.1, "w", 0.0, {"accuracy": 0.5})
EMPTY = replace(CLOSED, state="abandoned", reason="deadline of 3 s with 0 reported", reported=0, late=2)


def outcome(wanted: Simulation, out: Path) -> str:
    with pytest.raises(SettingsError) as ended:
        simulate(wanted, out, Console(file=io.StringIO()))
    return str(ended.value)


def test_what_every_device_declines_twice_ends_the_run_long_before_a_deadline(tmp_path: Path) -> None:
    diverging = Simulation(
        devices=3,
        engine="loopback",
        rounds=Rounds(total=50, deadline=10.0),
        plan=Plan(learning_rate=1e30),
        baselines=False,
    )
    assert outcome(diverging, tmp_path) == (
        "no round can succeed: 3 of 3 devices called have declined, "
        "d0: training diverged in round 2: weights are not finite; lower the learning rate"
    )
    (folder,) = tmp_path.iterdir()
    found = read(folder)
    assert [record.state for record in found.rounds] == ["abandoned", "abandoned"]
    assert not found.finished
    assert "interrupted after 0 rounds" in (folder / "report.html").read_text()


def test_a_fleet_that_is_always_too_slow_ends_the_run(tmp_path: Path) -> None:
    slow = Simulation(
        devices=2, rounds=Rounds(total=50, deadline=0.05), plan=Plan(epochs=10_000), baselines=False
    )  # fmt: skip
    assert outcome(slow, tmp_path) == (
        "5 rounds in a row came to nothing, the last one: deadline of 0.05 s with 0 reported, quorum 1"
    )
    (folder,) = tmp_path.iterdir()
    assert len(read(folder).rounds) == FRUITLESS == 5


def test_a_round_that_closes_is_hope() -> None:
    patience = Patience()
    for _ in range(3):
        for _ in range(FRUITLESS - 1):
            patience.ended(EMPTY)
        patience.ended(CLOSED)
    for _ in range(FRUITLESS - 1):
        patience.ended(EMPTY)
    with pytest.raises(SettingsError, match="5 rounds in a row came to nothing, the last one: deadline of 3 s with 0"):
        patience.ended(EMPTY)


def test_only_the_same_reason_twice_is_final() -> None:
    patience = Patience()
    for reason in ("d0: diverged in round 1", "d0: killed by signal 9", "d0: diverged in round 3"):
        patience.refused(reason)
    patience.ended(CLOSED)
    patience.refused("d0: diverged in round 5")
    with pytest.raises(SettingsError, match="no round can succeed: d1: diverged in round 6"):
        patience.refused("d1: diverged in round 6")


def test_an_aggregator_says_why_a_round_was_abandoned() -> None:
    assert line(CLOSED) == "round 1 closed: 2 of 2 reported, 0 late, 0.1 s; accuracy 0.5000"
    assert line(replace(CLOSED, scores={})).endswith("; no scores")
    assert line(EMPTY) == "round 1 abandoned: 0 of 2 reported, 2 late, 0.1 s; deadline of 3 s with 0 reported"
