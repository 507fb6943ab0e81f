"""The cloud as one device meets it, played by hand over a loopback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from federations import TOPICS

from fedfleet.edge.agent import Agent, birth, death
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Trainer
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Will
from fedfleet.wire.chunks import cut, open_part
from fedfleet.wire.loopback import Hub, LoopbackBus
from fedfleet.wire.messages import Blob, Plan, Receipt, Status, Task, decode, encode

P = 40_000  # weights and update of three parts
PROGRAM = b"program" * 10
DEVICE = "d1"


class Cloud:
    """What a device hears from the cloud, and what it says."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.now = 100.0
        self.bus = self.hub.connect()
        self.bus.subscribe(TOPICS.update())

    def device(self, folder: Path, trainer: Trainer | None = None) -> tuple[Agent, LoopbackBus]:
        """A new life of the device."""
        state = State(folder)
        state.begin()
        bus = self.hub.connect(Will(TOPICS.status(DEVICE), birth(state), death(state)))
        return Agent(DEVICE, TOPICS, bus, state, trainer or SeededTrainer(DEVICE), lambda: self.now), bus

    def blob(self, data: bytes) -> Blob:
        """Retain a blob's chunks."""
        for index, chunk in enumerate(cut(data)):
            self.bus.publish(TOPICS.chunk(Blob.of(data).digest, index), chunk, retain=True)
        return Blob.of(data)

    def task(self, number: int, **fields: Any) -> Task:
        """Retain a task, and what it names."""
        weights = self.blob(number.to_bytes(4, "big") * P)
        task = replace(Task(number, self.blob(PROGRAM), weights, Plan()), **fields)
        self.bus.publish(TOPICS.task, encode(task), retain=True)
        return task

    def receipt(self, number: int, outcome: str, **fields: Any) -> None:
        """Answer the device."""
        self.bus.publish(TOPICS.receipt(DEVICE), encode(Receipt(number, outcome, **fields)))

    def heard(self) -> list[tuple[int, int]]:
        """Round and index of the parts that came since the last call."""
        parts = [open_part(payload)[0] for _, payload in self.bus.deliveries(0)]
        return [(part.round, part.index) for part in parts]

    def status(self) -> Status:
        """What the device last said of itself."""
        return decode(Status, self.hub.retained[TOPICS.status(DEVICE)])


def steps(agent: Agent, count: int = 6) -> None:
    """Step an agent."""
    for _ in range(count):
        agent.step(0)


PARTS = [0, 1, 2]
