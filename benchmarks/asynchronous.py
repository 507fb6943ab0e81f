"""Asynchronous rounds beside synchronous ones, in the scene that NVFlare publishes (its examples/advanced/edge).

In virtual time: after how many minutes is the model as good? 16 devices hold equal parts of the data. A training takes
100, 200 or 400 s, a third of the devices each, give or take 1 %, and 5 s for the way; what it learns is real, by the
agents and the aggregator that a real fleet runs. The synchronous side makes 10 rounds of all devices. The asynchronous
side makes a version of every `buffer` updates, for as long. The goal is the synchronous side's accuracy at its end, on
data that no device has; the asynchronous side has reached it when the mean over the versions of its last 16 updates
has. NVFlare reports 82 minutes for its synchronous side and 45 for its asynchronous one, of as many updates, with a
version for every update and a server's rate of 0.05, on CIFAR-10; 10 and 10 of these without the delays.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import outcome

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.federation import Evaluate, Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.local import LocalTrainer
from fedfleet.models.compiled import Compiled
from fedfleet.sim import program as programs
from fedfleet.sim.datasets import load
from fedfleet.sim.fleet import fill
from fedfleet.sim.split import split
from fedfleet.sim.virtual.boards import Paced
from fedfleet.sim.virtual.faults import Faults, luck
from fedfleet.sim.virtual.fleet import VirtualFleet
from fedfleet.sim.virtual.pool import Pool
from fedfleet.wire.bus import Bus
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan
from fedfleet.wire.topics import Topics

DEVICES = 16
SECONDS = (100.0, 200.0, 400.0)
SPREAD, WAY = 0.01, 5.0
PLAN = Plan(epochs=4, learning_rate=0.02, momentum=0.9)
DAY = 86400.0


class Curve(NamedTuple):
    """After how many minutes which accuracy."""

    minutes: list[float]
    scores: list[float]

    def reached(self, goal: float, over: int) -> float | None:
        """Return after how many minutes the mean over `over` scores is `goal`; None if it never is."""
        for last in range(over, len(self.scores) + 1):
            if statistics.fmean(self.scores[last - over : last]) >= goal - 1e-9:
                return self.minutes[last - 1]
        return None


@dataclass(frozen=True)
class Scene:
    """What both sides have in common."""

    compiled: Compiled
    parts: list[Examples]
    score: Evaluate
    metric: str
    seed: int

    def play(self, name: str, rounds: Rounds) -> Curve:
        """Run one federation."""
        records, pool = list[RoundRecord](), Pool()
        federation = Federation(
            self.compiled.program, self.compiled.shared, strategy(name), PLAN, rounds, self.seed, name
        )
        topics = Topics("bench")

        def build(bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
            return Aggregator(federation, topics, bus, journal, clock, self.score, records.append)

        def trainer(device: str, examples: Path) -> Paced:
            def seconds(round_: int) -> float:
                return taken(device, round_, self.seed)

            return Paced(LocalTrainer(device, examples, pool.program), lambda: fleet.clock.now, seconds)

        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / "devices", self.parts)
            fleet = VirtualFleet(Path(folder), DEVICES, topics, build, trainer, Faults(training=0.0), self.seed)
            try:
                assert fleet.play(DAY), "not done within a virtual day"
            finally:
                fleet.close()
        minutes = [seconds / 60 for seconds in itertools.accumulate(record.seconds for record in records)]
        return Curve(minutes, [record.scores[self.metric] for record in records])


def taken(device: str, round_: int, seed: int) -> float:
    """Return how many seconds `device` takes for its part in a round."""
    mean = SECONDS[int(device[1:]) % len(SECONDS)]
    # a sum of four is near enough to the normal distribution that the scene has
    drawn = sum(luck(seed, "scene", round_, device)[:4]) - 2
    return mean * (1 + SPREAD * drawn * 3**0.5) + WAY


def prepared(data: str, seed: int) -> Scene:
    """Load the data, deal it out, compile the zoo's model for it."""
    dataset = load(data, seed)
    model = programs.build(dataset, data.partition(":")[0], "", seed)
    compiled = programs.compiled(model, dataset, 16)
    parts = split("iid", dataset, DEVICES, seed)
    return Scene(compiled, parts, evaluator(compiled, dataset.test), dataset.metric, seed)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits (default) or mnist:DIR")
    parser.add_argument("--rounds", type=int, default=10, help="synchronous rounds (default 10)")
    parser.add_argument("--buffer", type=int, default=4, help="updates in a version (default 4)")
    parser.add_argument("--staleness", type=int, default=100, help="versions that an update may be late (default 100)")
    parser.add_argument("--rate", type=float, default=1.0, help="the asynchronous side's server's rate (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, split, delays and batches (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file")
    wanted = parser.parse_args()
    common = Rounds(total=wanted.rounds, devices=DEVICES, deadline=3600.0)
    try:
        scene = prepared(wanted.data, wanted.seed)
        sync = scene.play("fedavg", common)
        versions = 2 * wanted.rounds * DEVICES // wanted.buffer
        rounds = replace(common, total=versions, buffer=wanted.buffer, staleness=wanted.staleness)
        late = scene.play(f"fedavg:{wanted.rate:g}", rounds)
    except FedfleetError as error:
        parser.error(str(error))
    goal, over = sync.scores[-1], max(1, DEVICES // wanted.buffer)
    waited, reached = sync.reached(goal, 1), late.reached(goal, over)
    outcome.table([["accuracy after", *(f"{minute} min" for minute in range(10, 71, 10))], *rows(sync, late)])
    figures = {
        "sync_minutes": waited,
        "async_minutes": reached or "never",
        "faster": waited / reached if waited and reached else 0.0,
        "accuracy": goal,
        "sync_all_minutes": sync.minutes[-1],
        "async_all_minutes": late.minutes[-1],
        "async_last": statistics.fmean(late.scores[-over:]),
        "seed": wanted.seed,
    }
    document = {
        "method": __doc__,
        "plan": asdict(PLAN),
        "machine": outcome.machine(),
        "versions": outcome.versions("tensorflow", "keras", "numpy", *outcome.RUNTIMES),
        "sync": sync._asdict(),
        "async": late._asdict(),
        "result": figures,
    }
    outcome.save(wanted.json, document)
    outcome.result(figures)


def rows(*curves: Curve) -> list[list[str]]:
    """What each side had come to after so many minutes."""
    found = []
    for name, curve in zip(("synchronous", "asynchronous"), curves, strict=True):
        points = zip(curve.minutes, curve.scores, strict=True)
        known = list(points)
        cells = [[score for minute, score in known if minute <= limit][-1:] for limit in range(10, 71, 10)]
        found.append([name, *(f"{cell[0]:.3f}" if cell else "-" for cell in cells)])
    return found


if __name__ == "__main__":
    main()
