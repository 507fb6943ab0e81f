"""A whole federation in one process and virtual time, to be cut off at any point; and its result by plain NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.combine import combined
from fedfleet.cloud.federation import Evaluate, Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.refine.plan import Refine, Refining
from fedfleet.cloud.settings import Evaluation, Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.agent import UNKNOWN, Agent, birth, death
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Stop, Trainer
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Will
from fedfleet.wire.calling import Ability
from fedfleet.wire.codecs import grow
from fedfleet.wire.loopback import Hub, LoopbackBus
from fedfleet.wire.messages import Blob, Plan, Task, Update
from fedfleet.wire.topics import Topics

TOPICS = Topics("test")
PROGRAM = b"no program: the trainer is seeded"
P = 40
SEED = 11
DEADLINE = 1000.0


def weights() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What every federation here starts from."""
    return np.linspace(-1, 1, P, dtype=np.float32)


def sha256(data: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(data).hexdigest()


def never() -> bool:
    """Nobody stops training."""
    return False


def fedavg(takers: Mapping[int, Mapping[str, int]], program: bytes = PROGRAM, plan: Plan | None = None) -> str:
    """Digest of the weights after rounds with these devices and their examples, in integers that have no end."""
    model = weights()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        for number, devices in takers.items():
            path.write_bytes(model.astype("<f4").tobytes())
            task = Task(number, Blob.of(program), Blob.of(path.read_bytes()), plan or Plan(), seed=SEED)
            total = np.zeros(P, object)
            for device, examples in devices.items():
                update = SeededTrainer(device).train(task, path, path, never)
                assert update is not None
                delta = grow(update.codec, update.delta, P).astype(np.float64)
                total = total + np.array([round(x * 2**30) for x in delta], object) * examples
            mean = total.astype(np.float64) / (sum(devices.values()) * 2**30)
            model = (model.astype(np.float64) + mean).astype(np.float32)
    return sha256(model.astype("<f4").tobytes())


@dataclass
class World:
    """A hub, an aggregator with a journal in `folder`, and devices `d0`, `d1`, ... with 10, 20, ... examples."""

    folder: Path
    devices: int = 3
    rounds: Rounds = field(default_factory=lambda: Rounds(total=3, devices=3, deadline=DEADLINE))
    strategy: str = "fedavg"
    program: bytes = PROGRAM
    plan: Plan = field(default_factory=Plan)
    hub: Hub = field(default_factory=Hub)
    now: float = 0.0
    records: list[RoundRecord] = field(default_factory=list)
    trainers: dict[str, Trainer] = field(default_factory=dict)
    evaluate: Evaluate | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    refine: Refine | None = None
    refining: Refining = field(default_factory=Refining)
    abilities: dict[str, Ability] = field(default_factory=dict)
    replicas: int = 0
    denied: Callable[[], Container[str]] = tuple

    def __post_init__(self) -> None:
        self.agents: dict[str, tuple[Agent, LoopbackBus]] = {}
        self.cloud_starts()
        for device in self.names:
            self.device_starts(device)

    @property
    def names(self) -> list[str]:
        """All devices."""
        return [f"d{i}" for i in range(self.devices)]

    def examples(self, *devices: str) -> dict[str, int]:
        """How many examples each of `devices` has, all of them where none is named."""
        return {device: 10 * int(device[1:]) + 10 for device in devices or self.names}

    def cloud_starts(self) -> None:
        """A new aggregator on whatever the journal holds."""
        self.journal = Journal(self.folder / "cloud")
        self.cloud_bus = self.hub.connect()
        rule, name = combined(strategy(self.strategy), self.replicas), self.strategy
        asked = {"evaluation": self.evaluation, "refining": self.refining}
        federation = Federation(self.program, weights(), rule, self.plan, self.rounds, SEED, name, **asked)
        told = (self.evaluate, self.records.append, self.refine, self.denied)
        self.cloud = Aggregator(federation, TOPICS, self.cloud_bus, self.journal, lambda: self.now, *told)

    def cloud_dies(self) -> None:
        """The aggregator is gone without a word; what was on its way to it is lost."""
        self.cloud_bus.close()
        self.journal.close()

    def device_starts(self, device: str) -> None:
        """A new life of a device on whatever its folder holds."""
        state = State(self.folder / device)
        state.begin()
        able = self.abilities.get(device, UNKNOWN)
        bus = self.hub.connect(Will(TOPICS.status(device), birth(state, able), death(state, able)))
        trainer = self.trainers.get(device) or SeededTrainer(device, self.examples(device)[device])
        self.agents[device] = Agent(device, TOPICS, bus, state, trainer, lambda: self.now, ability=able), bus

    def device_dies(self, device: str) -> None:
        """A device loses its power; the broker tells its last will."""
        self.agents.pop(device)[1].die()

    def act(self, actor: int) -> None:
        """Let the aggregator (0) or device `actor` - 1 step, in any order; a device that is dead does nothing."""
        self.now += 1.0
        if actor == 0:
            self.cloud.step(0)
        elif (device := f"d{actor - 1}") in self.agents:
            self.agents[device][0].step(0)

    def play(self, schedule: Iterable[int] = (), limit: int = 3000) -> str:
        """Act as `schedule` says, then in turns until the federation is done; returns the digest of the weights."""
        turns = cycle(range(self.devices + 1))
        for _, actor in zip(range(limit), chain(schedule, turns)):
            if self.cloud.done:
                return self.digest
            self.act(actor)
        raise AssertionError(f"not done after {limit} steps: {self.cloud.waiting()}")

    def until(self, number: int) -> None:
        """Act in turns until round `number` is open and its task published; nothing may wait for a deadline before."""
        end = self.now + DEADLINE / 2
        for actor in cycle(range(self.devices + 1)):
            if self.cloud.progress()[0] == number:
                return
            assert not self.cloud.done and self.now < end, self.cloud.waiting()
            self.act(actor)

    @property
    def digest(self) -> str:
        """The name of the aggregator's weights."""
        return sha256(self.cloud.weights.astype("<f4").tobytes())

    def blobs(self) -> set[str]:
        """Names of all chunks that the hub retains."""
        return {TOPICS.named(topic)[1] for topic in self.hub.retained if "/chunk/" in topic}


class Unwilling:
    """A trainer that cannot, and says why."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked: list[int] = []

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Raise what it was made with."""
        self.asked.append(task.round)
        raise self.error

    def close(self) -> None:
        """Nothing was started."""


@contextmanager
def world(**options: Any) -> Iterator[World]:
    """A world in a folder that goes with it."""
    with TemporaryDirectory() as folder:
        found = World(Path(folder), **options)
        try:
            yield found
        finally:
            found.journal.close()


ALL = {"d0": 10, "d1": 20, "d2": 30}
UNINTERRUPTED = fedavg({1: ALL, 2: ALL, 3: ALL})
