"""What strategies learn round by round, on devices whose data differ: the same fleet, plan and seed for each of them.

Whole federations of real agents in this process (the loopback engine), scored after every round on data that no device
has. Every device trains with plain SGD, two passes a round, in every round. digits and mnist:DIR are split by label
(dirichlet:0.1) over 10 devices, so that most of them know few classes; turbofan:DIR has 20 engines, one a device, and
an rmse in cycles.
`last` is the mean over the last fifth of the rounds; `reached` is the first round that is as good as the `last` of the
first strategy. Nothing is tuned for any of them but the server's rate, which the name gives (`fedadam:0.01`).
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import outcome
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.sim.record import read
from fedfleet.sim.simulate import check, simulate
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.messages import Plan

STRATEGIES = ("fedavg", "fedprox", "fedadam:0.01", "scaffold")
PLAN = Plan(epochs=2, learning_rate=0.05)
POINTS = 5  # how many columns show a curve


class Curve(NamedTuple):
    """One strategy's scores after each round, and the seconds that it took."""

    strategy: str
    scores: list[float]
    seconds: float

    @property
    def last(self) -> float:
        """The mean over the last fifth."""
        return statistics.fmean(self.scores[-max(1, len(self.scores) // 5) :])

    def reached(self, goal: float, *, falling: bool) -> int | None:
        """Return the first round that is as good as `goal`; None if there is none."""
        good = (n for n, score in enumerate(self.scores, 1) if (score <= goal if falling else score >= goal))
        return next(good, None)


class Tried(NamedTuple):
    """All strategies on one kind of data; an rmse falls, an accuracy rises."""

    name: str
    metric: str
    curves: list[Curve]

    def rows(self) -> list[list[str]]:
        """The table."""
        rounds, goal = len(self.curves[0].scores), self.curves[0].last
        points = sorted({max(1, rounds * point // POINTS) for point in range(1, POINTS + 1)})
        heads = [f"{self.name}, {self.metric}", *(f"round {n}" for n in points), "last", "reached", "seconds"]
        body = [
            [each.strategy, *(f"{each.scores[n - 1]:.4g}" for n in points), f"{each.last:.4g}",
             str(each.reached(goal, falling=self.metric != "accuracy") or "-"), f"{each.seconds:.0f}"]
            for each in self.curves
        ]  # fmt: skip
        return [heads, *body]


def simulation(data: str, strategy: str, rounds: int, seed: int, model: str = "") -> Simulation:
    """The federation of one strategy on one kind of data; `model` is FILE.py:FUNCTION, empty for the zoo's."""
    natural = data.startswith("turbofan")
    devices, split = (20, "natural") if natural else (10, "dirichlet:0.1")
    found = Rounds(total=rounds, devices=devices, deadline=3600.0)
    options = {"engine": "loopback", "seed": seed, "rounds": found, "plan": PLAN, "model": model, "baselines": False}
    return Simulation(data=data, strategy=strategy, devices=devices, split=split, **options)  # type: ignore[arg-type]


def learn(wanted: Simulation, folder: Path) -> tuple[str, Curve]:
    """Run one federation; returns the metric's name as well."""
    began = time.perf_counter()
    run = read(simulate(wanted, folder, Console(file=io.StringIO())))
    scores = [record.scores[run.facts.metric] for record in run.rounds if record.state == "closed"]
    return run.facts.metric, Curve(wanted.strategy, scores, time.perf_counter() - began)


def compare(data: str, names: Sequence[str], rounds: int, seed: int, model: str = "") -> Tried:
    """Try all strategies on one kind of data."""
    curves, metric = [], ""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            metric, curve = learn(simulation(data, name, rounds, seed, model), Path(folder))
            curves.append(curve)
    return Tried(data.partition(":")[0], metric, curves)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", metavar="DATA", help="digits (default), mnist:DIR or turbofan:DIR")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), metavar="A,B", help="these; the first is the bar")
    parser.add_argument("--rounds", type=int, default=30, help="rounds with each strategy (default 30)")
    parser.add_argument("--model", default="", metavar="FILE.py:FUNCTION", help="instead of the zoo's")
    parser.add_argument("--seed", type=int, default=0, help="of weights, split and batches (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file")
    wanted = parser.parse_args()
    names, kinds = wanted.strategies.split(","), wanted.data or ["digits"]
    tries = []
    try:
        for name in names:
            check(simulation(kinds[0], name, wanted.rounds, wanted.seed))
        for data in kinds:
            tries.append(compare(data, names, wanted.rounds, wanted.seed, wanted.model))
            outcome.table(tries[-1].rows())
    except FedfleetError as error:
        parser.error(str(error))
    figures = {f"{tried.name}_{each.strategy}": each.last for tried in tries for each in tried.curves}
    document = {
        "method": __doc__,
        "plan": asdict(PLAN),
        "model": wanted.model,
        "machine": outcome.machine(),
        "versions": outcome.versions("tensorflow", "keras", "numpy", *outcome.RUNTIMES),
        "data": [{**tried._asdict(), "curves": [each._asdict() for each in tried.curves]} for tried in tries],
        "result": figures,
    }
    outcome.save(wanted.json, document)
    outcome.result({**figures, "rounds": wanted.rounds, "seed": wanted.seed})


if __name__ == "__main__":
    main()
