"""A thousand seeds of virtual rounds with all faults at once: `python -m faults.seeds [--seeds N] [--from K]`.

Each seed is a federation of its own: devices, model, codec and rates are drawn from it, and so is all that goes wrong.
What must hold: a round ends by its deadline; the model is exactly what the devices that were counted make of it, each
once, by an arithmetic of its own; what a killed aggregator finds in its journal is what it had; and whatever happened,
the federation gets to its end. A seed that fails is run again by its number. Exit code 0 where all hold, else 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.rounds import Round
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.sim.virtual.boards import Attacker
from fedfleet.sim.virtual.cloud import TURN
from fedfleet.sim.virtual.faults import Faults
from fedfleet.sim.virtual.fleet import VirtualFleet
from fedfleet.wire.bus import Bus
from fedfleet.wire.codecs import Weights, grow
from fedfleet.wire.messages import Blob, Plan, Task, Update
from fedfleet.wire.topics import Topics

PROGRAM = b"no program: the trainer is seeded"
TOPICS = Topics("virtual")
HOURS = 12 * 3600.0  # of virtual time in which every federation is to come to its end
CODECS = ("float32", "float16", "int8", "topk:0.5+int4+zlib")
RAM = Path("/dev/shm")


class Broken(AssertionError):
    """Something that must hold does not."""


@dataclass(frozen=True)
class Scene:
    """What a seed stands for."""

    seed: int
    devices: int
    parameters: int
    rounds: Rounds
    plan: Plan
    faults: Faults
    crowd: bool  # only those whom a task calls are awake

    @staticmethod
    def of(seed: int) -> Scene:
        """Return the scene of `seed`."""
        chance = Random(seed)
        devices = chance.randint(2, 8)
        deadline = chance.choice([60.0, 120.0, 300.0])
        share, quorum = chance.choice([1.0, 1.0, 0.6]), chance.randint(1, max(1, devices // 3))
        codec, downlink = chance.choice(CODECS), chance.choice(["", "", "int8"])
        cohort = {"cohort": max(quorum, devices // 2), "grace": chance.choice([0.0, 20.0])} if share == 1 else {}
        wanted = cohort if chance.random() < 0.4 else {}
        rounds = Rounds(5, max(1, devices // 2), share, quorum, deadline, downlink, **wanted)
        faults, names = rates(chance), [f"d{i}" for i in range(devices)]
        if all(faults.attack(seed, name) == "nan" for name in names):
            faults = replace(faults, nan=0.0)  # somebody has to be left to learn from
        parameters = chance.choice([7, 40, 40, 20_000])
        if share == 1 and not wanted and chance.random() < 0.6:
            rounds = replace(rounds, buffer=max(quorum, devices // 2), staleness=chance.choice([0, 1, 2, 4]))
        return Scene(seed, devices, parameters, rounds, Plan(codec=codec), faults, seed % 3 == 0)

    def weights(self) -> Weights:
        """What the federation starts from."""
        return np.linspace(-1, 1, self.parameters, dtype=np.float32)

    def trainer(self, device: str) -> SeededTrainer:
        """What a device trains with, attacks aside."""
        return SeededTrainer(device, 10 * int(device[1:]) + 10)


def rates(chance: Random) -> Faults:
    """All faults at once, none of them so often that nothing would ever come through."""
    most = {
        "delay": 1.0, "training": 20.0, "lose": 0.03, "repeat": 0.3, "reorder": 0.2, "cut": 0.05, "dropout": 0.3,
        "straggler": 0.2, "reboot": 0.3, "kill": 0.5, "outage": 0.5, "away": 0.2,
        "sign": 0.1, "scale": 0.1, "nan": 0.2, "free": 0.1,
    }  # fmt: skip
    return Faults(**{name: chance.uniform(0, value) for name, value in most.items()})


@dataclass
class Play:
    """A scene while it is played, and what was seen of it."""

    scene: Scene
    folder: Path
    records: list[RoundRecord] = field(default_factory=list)
    kills: int = 0

    def __post_init__(self) -> None:
        scene = self.scene
        self.fleet = VirtualFleet(
            self.folder, scene.devices, TOPICS, self.build, lambda device, _: scene.trainer(device),
            scene.faults, scene.seed, self.replay, 0 if scene.crowd else 5000,
        )  # fmt: skip

    def build(self, bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
        """Make an aggregator on whatever the journal holds."""
        scene, rule = self.scene, strategy("fedavg")
        federation = Federation(PROGRAM, scene.weights(), rule, scene.plan, scene.rounds, scene.seed, "fedavg")
        return Aggregator(federation, TOPICS, bus, journal, clock, None, self.records.append)

    def replay(self, aggregator: Aggregator, journal: Journal) -> None:
        """What the journal holds is what the aggregator has."""
        self.kills += 1
        live, task = aggregator._round, journal.open_task()
        if live is None:
            return
        if task != live.task:
            raise Broken(f"the journal's open task is {task}, the aggregator's {live.task}")
        rule = strategy("fedavg").aggregate(self.scene.parameters)
        again = Round(task, self.scene.parameters, rule, live.quorum, ())
        for update in journal.updates(task.round):
            again.take(update)
        if (again.counted, again.stale) != (live.counted, live.stale) or (
            live.reported and not same(again.aggregate.value(), live.aggregate.value())
        ):
            raise Broken(f"round {task.round}: the journal's sum is another than the aggregator's")

    def check(self) -> str:
        """Play it to its end and return its digests. Raises Broken."""
        if not self.fleet.play(HOURS):
            cloud = self.fleet.cloud.aggregator
            raise Broken(f"not done after {len(self.records)} rounds: {cloud.waiting() if cloud else 'down'}")
        aggregator, limit = self.fleet.cloud.aggregator, self.scene.rounds.deadline + TURN
        for record in self.records:
            if record.seconds > limit:
                raise Broken(f"round {record.round} took {record.seconds:g} s, its deadline is {limit - TURN:g} s")
        assert aggregator is not None
        twice = "SELECT device, task FROM updates GROUP BY device, task HAVING count(*) > 1"
        if rows := aggregator._journal._run(twice):
            raise Broken(f"{rows[0][0]} counts twice for the task of round {rows[0][1]}")
        if not same(aggregator.weights, expected(self.scene, takers(aggregator._journal))):
            raise Broken("the model is not what the counted devices make of it")
        return f"{self.fleet.trail[:16]} {Blob.of(aggregator.weights.tobytes()).digest[:16]}"


def same(a: Weights, b: Weights) -> bool:
    """Whether two arrays are the same to the bit."""
    return a.tobytes() == b.tobytes()


def takers(journal: Journal) -> Iterator[tuple[Task, list[tuple[str, int]]]]:
    """Yield each round that made a model, and the devices that it says it counted, with the round each trained for."""
    for (number,) in journal._run("SELECT round FROM rounds WHERE state = 'closed' ORDER BY round"):
        task = journal._task(f"SELECT task FROM rounds WHERE round = {number}")
        assert task is not None
        yield task, journal._run("SELECT device, task FROM updates WHERE round = ? ORDER BY device", number)


def expected(scene: Scene, closed: Iterator[tuple[Task, list[tuple[str, int]]]]) -> Weights:
    """The model after rounds with these devices, in integers that have no end."""
    model = scene.weights()
    with TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as folder:
        path = Path(folder) / "weights"
        for task, devices in closed:
            path.write_bytes(model.astype("<f4").tobytes())
            plain = Task(task.round, task.program, Blob.of(path.read_bytes()), task.plan, seed=task.seed)
            if task.weights != plain.weights and not scene.rounds.downlink:
                raise Broken(f"round {task.round} did not start from the model of the round before")
            if not devices:
                raise Broken(f"round {task.round} made a model of nothing")
            if any(not 0 <= task.round - number <= scene.rounds.staleness for _, number in devices):
                raise Broken(f"round {task.round} counted what is too old: {devices}")
            updates = [learned(scene, replace(plain, round=number), device, path) for device, number in devices]
            total = np.zeros(scene.parameters, object)
            for update in updates:
                delta = grow(update.codec, update.delta, scene.parameters).astype(np.float64)
                if behind := task.round - update.round:
                    delta = (delta / (1 + behind) ** 0.5).astype(np.float32).astype(np.float64)
                total = total + np.array([round(x * 2**30) for x in delta], object) * update.examples
            mean = total.astype(np.float64) / (sum(update.examples for update in updates) * 2**30)
            model = (model.astype(np.float64) + mean).astype(np.float32)
    return model


def learned(scene: Scene, task: Task, device: str, path: Path) -> Update:
    """What `device` sends in the round of `task`."""
    kind = scene.faults.attack(scene.seed, device)
    trainer = scene.trainer(device)
    update = (Attacker(trainer, kind) if kind else trainer).train(task, path, path, lambda: False)
    assert update is not None
    return update


@contextmanager
def play(scene: Scene) -> Iterator[Play]:
    """The play of `scene`, in a folder that goes with it."""
    with TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as folder:
        found = Play(scene, Path(folder))
        try:
            yield found
        finally:
            found.fleet.close()


def verdict(seed: int) -> tuple[int, str, bool]:
    """Play a seed and return its number, what is to be said of it, and whether all held."""
    logging.disable(logging.CRITICAL)
    try:
        with play(Scene.of(seed)) as found:
            return seed, found.check(), True
    except Broken as error:
        return seed, str(error), False
    finally:
        logging.disable(logging.NOTSET)


def main() -> int:
    """Play the seeds asked for, on all cores."""
    parser = argparse.ArgumentParser(prog="faults.seeds", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", type=int, default=0, dest="first")
    wanted = parser.parse_args()
    failed = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for seed, said, good in pool.map(verdict, range(wanted.first, wanted.first + wanted.seeds), chunksize=4):
            if not good:
                failed.append(seed)
            if not good or wanted.seeds <= 10:
                print(f"seed {seed}: {said}", flush=True)
    print(f"{wanted.seeds - len(failed)} of {wanted.seeds} seeds hold" + (f"; failed: {failed[:20]}" if failed else ""))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
