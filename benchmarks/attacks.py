"""What each rule learns where devices lie: the same fleet, plan and seed, once with honest devices and once per attack.

Whole federations of real agents in virtual time (the virtual engine), scored after every round on data that no device
has. 30 devices share the data evenly (iid), because Krum and Bulyan assume that honest updates resemble each other:
on split data they lose accuracy without any attacker. Every device trains with plain SGD, two passes a round, in every
round. Exactly 9 of them attack (0.3), always the same ones; the rules are told how many, but Bulyan only of as many as
its n >= 4f + 3 allows. mnist:DIR is learned by benchmarks/dense.py, digits by the zoo's CNN.
Accuracy is the mean over the last fifth of the rounds. The bars: with each attack a robust rule is at most 3 points
below the honest fleet's plain mean, and the plain mean falls by 20 or more.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import NamedTuple

import outcome
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.sim.fleet import device_id
from fedfleet.sim.record import read
from fedfleet.sim.simulate import check, simulate
from fedfleet.sim.stage import Simulation
from fedfleet.sim.virtual.faults import parse
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.messages import Plan

HONEST, MEAN = "none", "fedavg"
ATTACKS = (HONEST, "sign", "reverse")
SHARE = 0.3
PLAN = Plan(epochs=2, learning_rate=0.1)
NEAR, COLLAPSED = 0.03, 0.2
DENSE = Path(__file__).with_name("dense.py")


class Fleet(NamedTuple):
    """What all runs have in common."""

    data: str
    devices: int
    rounds: int
    seed: int

    @property
    def bad(self) -> int:
        """How many devices attack."""
        return round(SHARE * self.devices)


class Cell(NamedTuple):
    """One strategy under one attack: scores after each round, how many updates were refused, seconds."""

    strategy: str
    attack: str
    scores: list[float]
    refused: int
    seconds: float

    @property
    def last(self) -> float:
        """The mean over the last fifth."""
        return statistics.fmean(self.scores[-max(1, len(self.scores) // 5) :])


class Tried(NamedTuple):
    """All strategies under all attacks; `clean` is what the plain mean of honest devices comes to."""

    clean: float
    cells: list[Cell]

    def rows(self) -> list[list[str]]:
        """The table: accuracy, and in brackets the points below clean."""
        attacks = list(dict.fromkeys(cell.attack for cell in self.cells))
        found = {(cell.strategy, cell.attack): cell for cell in self.cells}
        texts = {key: f"{cell.last:.3f} ({100 * (self.clean - cell.last):.1f})" for key, cell in found.items()}
        names = dict.fromkeys(cell.strategy for cell in self.cells)
        return [["accuracy (points below)", *attacks], *([name, *(texts[name, a] for a in attacks)] for name in names)]

    def near(self, attack: str) -> list[str]:
        """The robust rules that are within the bar under `attack`."""
        return [cell.strategy for cell in self._robust(attack) if self.clean - cell.last <= NEAR]

    def verdict(self, attack: str) -> dict[str, str]:
        """Both bars under `attack`, for the last line."""
        mean = [cell for cell in self.cells if (cell.strategy, cell.attack) == (MEAN, attack)]
        fallen = {f"{attack}_mean_collapses": "no" if self.clean - each.last < COLLAPSED else "yes" for each in mean}
        return {f"{attack}_near": f"{len(self.near(attack))}/{len(self._robust(attack))}", **fallen}

    def _robust(self, attack: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.attack == attack and cell.strategy != MEAN]


def strategies(devices: int, bad: int) -> list[str]:
    """The plain mean and each rule, with what it has to be told of `bad` attackers."""
    bulyan = min(bad, (devices - 3) // 4)
    trimmed = f"trimmed:{min(0.49, (bad + 1) / devices):.2f}"
    chosen = [f"krum:{bad}", f"multikrum:{bad},{devices - bad}", f"bulyan:{bulyan}"]
    return [MEAN, "median", trimmed, *chosen, "geomedian", "clip:0.5", "filter:3"]


def seeded(fleet: Fleet) -> Fleet:
    """The fleet with the first seed from its own on by which exactly its share attacks, whatever the attack."""
    faults = parse(f"sign={SHARE}")
    names = [device_id(index) for index in range(fleet.devices)]
    attackers = ((seed, sum(bool(faults.attack(seed, name)) for name in names)) for seed in count(fleet.seed))
    return fleet._replace(seed=next(seed for seed, found in attackers if found == fleet.bad))


def simulation(fleet: Fleet, strategy: str, attack: str) -> Simulation:
    """The federation of one strategy under one attack."""
    faults = attack if attack == HONEST else f"{attack}={SHARE}"
    model = f"{DENSE}:build" if fleet.data.startswith("mnist") else ""
    rounds = Rounds(total=fleet.rounds, devices=fleet.devices, deadline=3600.0)
    options = {"split": "iid", "engine": "virtual", "plan": PLAN, "baselines": False}
    named = {"data": fleet.data, "devices": fleet.devices, "seed": fleet.seed, "rounds": rounds}
    return Simulation(strategy=strategy, faults=faults, model=model, **named, **options)  # type: ignore[arg-type]


def learn(fleet: Fleet, strategy: str, attack: str) -> Cell:
    """Run one federation."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = read(simulate(simulation(fleet, strategy, attack), Path(folder), Console(file=io.StringIO())))
    scores = [record.scores[run.facts.metric] for record in run.rounds if record.state == "closed"]
    return Cell(strategy, attack, scores, sum(each.refused for each in run.rounds), time.perf_counter() - began)


def compare(fleet: Fleet, names: Sequence[str], attacks: Sequence[str]) -> Tried:
    """Try all strategies under all attacks."""
    clean = learn(fleet, MEAN, HONEST)
    pairs = [(name, attack) for name in names for attack in attacks]
    return Tried(clean.last, [clean if pair == (MEAN, HONEST) else learn(fleet, *pair) for pair in pairs])


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits (default) or mnist:DIR")
    parser.add_argument("--attacks", default=",".join(ATTACKS), metavar="A,B", help=f"default {','.join(ATTACKS)}")
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help="these; the mean and all rules without")
    parser.add_argument("--devices", type=int, default=30, help="how many there are (default 30)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each run (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="or the first above it by which 0.3 attack (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file")
    wanted = parser.parse_args()
    fleet = Fleet(wanted.data, wanted.devices, wanted.rounds, wanted.seed)
    names, attacks = wanted.strategies or strategies(fleet.devices, fleet.bad), wanted.attacks.split(",")
    try:
        for name in names:
            for attack in attacks:
                check(simulation(fleet, name, attack))
        fleet = seeded(fleet)
        tried = compare(fleet, names, attacks)
    except FedfleetError as error:
        parser.error(str(error))
    outcome.table(tried.rows())
    document = {
        "method": __doc__,
        "plan": asdict(PLAN),
        "machine": outcome.machine(),
        "versions": outcome.versions("tensorflow", "keras", "numpy", *outcome.RUNTIMES),
        "fleet": {**fleet._asdict(), "attackers": fleet.bad},
        "clean": tried.clean,
        "cells": [{**cell._asdict(), "last": cell.last} for cell in tried.cells],
        "near": {attack: tried.near(attack) for attack in attacks},
    }
    outcome.save(wanted.json, document)
    figures = {f"{cell.attack}_{cell.strategy}": cell.last for cell in tried.cells}
    verdicts = {key: text for attack in attacks if attack != HONEST for key, text in tried.verdict(attack).items()}
    outcome.result({"clean": tried.clean, **figures, **verdicts, "seed": fleet.seed, "attackers": fleet.bad})


if __name__ == "__main__":
    main()
