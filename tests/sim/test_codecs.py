"""Whole runs with a codec: fewer bytes, and one seed still gives one digest, in processes as in the loopback."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.sim.record import Run, read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.wire.codecs import lengths
from fedfleet.wire.messages import Plan

CODEC = "topk:0.1+int4+zlib"
WANTED = Simulation(
    devices=3,
    rounds=Rounds(total=3, deadline=60.0),
    plan=Plan(learning_rate=0.02, momentum=0.9, codec=CODEC),
    baselines=False,
)


def run(wanted: Simulation, out: Path) -> Run:
    return read(simulate(wanted, out, Console(file=io.StringIO())))


def test_the_same_seed_gives_the_same_weights_in_processes_and_in_one(tmp_path: Path) -> None:
    runs = [run(replace(WANTED, engine=engine), tmp_path) for engine in ("mqtt", "loopback")]
    weights = {found.outcome.weights for found in runs if found.outcome is not None}
    assert len(weights) == 1
    for found in runs:
        assert all(record.reported == 3 for record in found.rounds)
        assert all(record.bytes_up < 3 * (lengths(CODEC, found.facts.parameters)[-1] + 400) for record in found.rounds)
        assert all(16 * record.bytes_up < 3 * 4 * found.facts.parameters for record in found.rounds)
        (rests,) = {len(list((tmp_path / found.facts.id / "devices").rglob("residual/*/*.weights")))}
        assert rests == 6  # of each device those of the last two rounds
