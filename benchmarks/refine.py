"""What refining between rounds brings at equal rounds: the same fleet, plan and seeds with it and without.

Whole federations of real agents in this process (the loopback engine), scored after every round on data that neither a
device nor the cloud has. A tenth of the training data is set aside for the cloud in all of them, also where nothing is
refined, so that devices hold the same; `distil` does not look at its labels. Fleets and plan are those of
benchmarks/strategies.py, FedAvg with plain SGD: digits and mnist:DIR split by label (dirichlet:0.1) over 10 devices,
turbofan:DIR as nature had it. `cloud alone` is what the cloud's labelled data teach without any device: as many passes
of the devices' plan as there were rounds, or as many steps of `tune` as all rounds together took, whichever is better.
`last` is the mean over the last fifth of the rounds, and over all seeds; `gain` is how much better that is than without
refining (points of accuracy, or units of rmse), `each` the same for every seed. Nothing is tuned for a seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import outcome
from strategies import PLAN, POINTS, Curve, learn, simulation

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.refine.plan import Made, Refining, parse
from fedfleet.models.quiet import quiet
from fedfleet.sim.baselines import Job, train
from fedfleet.sim.datasets import load
from fedfleet.sim.simulate import check
from fedfleet.sim.split import set_aside
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import FedfleetError

NONE = ""
REFINES = ("tune:every=1,steps=50", "distil:every=1,steps=50")
ALONE = "cloud alone"


class Tried(NamedTuple):
    """One kind of data: a curve for each way to refine and each seed, and what the cloud's data alone come to."""

    name: str
    metric: str
    curves: dict[str, list[Curve]]
    alone: list[float]

    def plain(self) -> dict[str, Any]:
        """All of it, for a file."""
        curves = {refine or "none": [curve._asdict() for curve in found] for refine, found in self.curves.items()}
        return {**self._asdict(), "curves": curves}

    def last(self, refine: str) -> float:
        """The mean over the last fifth of the rounds, and over all seeds."""
        return statistics.fmean(curve.last for curve in self.curves[refine])

    def gains(self, refine: str) -> list[float]:
        """How much better `refine` is in the end than without, seed by seed."""
        ours, plain = self.curves[refine], self.curves[NONE]
        return [self._better(mine.last - other.last) for mine, other in zip(ours, plain, strict=True)]

    def rows(self) -> list[list[str]]:
        """The table."""
        rounds = len(self.curves[NONE][0].scores)
        points = sorted({max(1, rounds * point // POINTS) for point in range(1, POINTS + 1)})
        heads = [f"{self.name}, {self.metric}", *(f"round {n}" for n in points), "last", "gain", "each"]
        cloud = statistics.fmean(self.alone)
        last = [ALONE, *("" for _ in points), f"{cloud:.4g}", f"{self._better(cloud - self.last(NONE)):+.2f}", ""]
        return [heads, *(self._row(refine, points) for refine in self.curves), last]

    def _row(self, refine: str, points: Sequence[int]) -> list[str]:
        means = [statistics.fmean(curve.scores[n - 1] for curve in self.curves[refine]) for n in points]
        gains = self.gains(refine)
        told = ("", "") if refine == NONE else (f"{statistics.fmean(gains):+.2f}", " ".join(f"{g:+.2f}" for g in gains))
        return [refine or "none", *(f"{mean:.4g}" for mean in means), f"{self.last(refine):.4g}", *told]

    def _better(self, difference: float) -> float:
        return 100 * difference if self.metric == "accuracy" else -difference


class Fleet(NamedTuple):
    """What all federations on one kind of data have alike."""

    data: str
    rounds: int
    share: float
    passes: int = PLAN.epochs
    model: str = ""
    split: str = ""

    def simulation(self, refine: str, seed: int) -> Simulation:
        """The federation of one way to refine."""
        found = simulation(self.data, "fedavg", self.rounds, seed, self.model)
        plan = replace(PLAN, epochs=self.passes)
        return replace(found, refine=refine, cloud_share=self.share, plan=plan, split=self.split or found.split)


def alone(wanted: Simulation, plan: Refining) -> float:
    """Return what the cloud's data teach without any device, the better of both ways."""
    dataset, cloud = set_aside(load(wanted.data, wanted.seed), wanted.cloud_share, wanted.seed)
    assert cloud is not None
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        from fedfleet.cloud.refine.refiner import refiner
        from fedfleet.sim import program

        build = partial(program.build, dataset, wanted.kind, wanted.model, wanted.seed)
        compiled = program.compiled(build(), dataset, wanted.batch)
        compiled.save(folder)
        place = Path(folder) / "program.tflite"
        job = Job(place, compiled.digest, compiled.weights, wanted.plan, wanted.rounds.total, wanted.seed)
        steps = max(wanted.rounds.total // plan.every, 1) * plan.steps
        refine = refiner(replace(plan, kind="tune", steps=steps, gate=""), compiled, build, cloud, wanted.seed)
        found = (train(job, [cloud]), refine(Made(0, compiled.weights, lambda: iter(()))).weights)
        scorer = evaluator(compiled, dataset.test, dataset.target_scale)
        scores = [scorer(weights)[dataset.metric] for weights in found]
    return max(scores) if dataset.metric == "accuracy" else min(scores)


def compare(fleet: Fleet, refines: Sequence[str], seeds: int) -> Tried:
    """Run every federation on one kind of data."""
    curves: dict[str, list[Curve]] = {refine: [] for refine in (NONE, *refines)}
    metric = ""
    for seed in range(seeds):
        for refine, found in curves.items():
            with tempfile.TemporaryDirectory() as folder:
                metric, curve = learn(fleet.simulation(refine, seed), Path(folder))
                found.append(curve)
    plan = parse(next((refine for refine in refines if refine.startswith("tune")), refines[0]))
    left = [alone(fleet.simulation(NONE, seed), plan) for seed in range(seeds)]
    return Tried(fleet.data.partition(":")[0], metric, curves, left)


def figures(tries: Sequence[Tried]) -> dict[str, float]:
    """Return what the last line says of each; the second of a kind is called so."""
    found: dict[str, float] = {}
    for tried in tries:
        for refine in tried.curves:
            name = f"{tried.name}_{refine.partition(':')[0] or 'none'}"
            again = sum(key.startswith(name) for key in found) + 1
            found[name if again == 1 else f"{name}{again}"] = tried.last(refine)
        found[f"{tried.name}_alone"] = statistics.fmean(tried.alone)
    return found


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", metavar="DATA", help="digits (default), mnist:DIR or turbofan:DIR")
    parser.add_argument("--refine", nargs="+", default=REFINES, metavar="KIND:KEY=VALUE,...", help="beside none")
    parser.add_argument("--passes", type=int, default=PLAN.epochs, help="of devices in a round (default 2)")
    parser.add_argument("--model", default="", metavar="FILE.py:FUNCTION", help="instead of the zoo's")
    parser.add_argument("--split", default="", metavar="SPLIT", help="instead of the data's own, as dirichlet:0.3")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each federation (default 20)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of weights, splits, batches (default 3)")
    parser.add_argument("--share", type=float, default=0.1, help="the cloud's share of the data (default 0.1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file")
    wanted = parser.parse_args()
    alike = (wanted.rounds, wanted.share, wanted.passes, wanted.model, wanted.split)
    fleets = [Fleet(data, *alike) for data in wanted.data or ["digits"]]
    tries = []
    try:
        for refine in wanted.refine:
            check(fleets[0].simulation(refine, 0))
        for fleet in fleets:
            tries.append(compare(fleet, wanted.refine, wanted.seeds))
            outcome.table(tries[-1].rows())
    except FedfleetError as error:
        parser.error(str(error))
    document = {
        "method": __doc__,
        "fleets": [fleet._asdict() for fleet in fleets],
        "plan": asdict(PLAN),
        "machine": outcome.machine(),
        "versions": outcome.versions("tensorflow", "keras", "numpy", *outcome.RUNTIMES),
        "data": [tried.plain() for tried in tries],
        "result": figures(tries),
    }
    outcome.save(wanted.json, document)
    outcome.result({**figures(tries), "rounds": wanted.rounds, "seeds": wanted.seeds, "share": wanted.share})


if __name__ == "__main__":
    main()
