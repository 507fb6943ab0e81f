"""The cloud as one device meets it, played by hand over a loopback."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from federations import TOPICS

from fedfleet.edge.agent import UNKNOWN, Agent, birth, death
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Trainer
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire import frames
from fedfleet.wire.bus import Will
from fedfleet.wire.calling import Ability
from fedfleet.wire.chunks import Offer, chunk_name, cut, manifest, open_offer, open_part
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

    def device(
        self, folder: Path, trainer: Trainer | None = None, ability: Ability = UNKNOWN
    ) -> tuple[Agent, LoopbackBus]:
        """A new life of the device."""
        state = State(folder)
        state.begin()
        bus = self.hub.connect(Will(TOPICS.status(DEVICE), birth(state, ability), death(state, ability)))
        trainer = trainer or SeededTrainer(DEVICE)
        return Agent(DEVICE, TOPICS, bus, state, trainer, lambda: self.now, ability=ability), bus

    def blob(self, data: bytes) -> Blob:
        """Retain a blob's chunks, and their names."""
        blob, chunks = Blob.of(data), cut(data)
        if len(chunks) > 1:
            frame = manifest(blob, [chunk_name(chunk) for chunk in chunks])
            self.bus.publish(TOPICS.manifest(blob.digest), frame, retain=True)
        for chunk in chunks:
            self.bus.publish(TOPICS.chunk(chunk_name(chunk)), chunk, retain=True)
        return blob

    def task(self, number: int, **fields: Any) -> Task:
        """Retain a task, and what it names."""
        weights = self.blob(random.Random(number).randbytes(4 * P))
        task = replace(Task(number, self.blob(PROGRAM), weights, Plan()), **fields)
        self.bus.publish(TOPICS.task, encode(task), retain=True)
        return task

    def receipt(self, number: int, outcome: str, **fields: Any) -> None:
        """Answer the device."""
        self.bus.publish(TOPICS.receipt(DEVICE), encode(Receipt(number, outcome, **fields)))

    def heard(self) -> list[int]:
        """Rounds of the offers that came since the last call."""
        return [offered.round for offered in self.offers()]

    def offers(self) -> list[Offer]:
        """The offers that came since the last call; nothing else may have come."""
        return [open_offer(payload) for _, payload in self.bus.deliveries(0)]

    def parts(self) -> list[tuple[int, int, bytes]]:
        """Round, index and bytes of the parts that came since the last call; offers are passed over."""
        payloads = [payload for _, payload in self.bus.deliveries(0)]
        parts = [open_part(payload) for payload in payloads if frames.unpack(payload)[0]["kind"] == "part"]
        return [(part.round, part.index, body) for part, body in parts]

    def collect(self, agent: Agent, number: int, missing: tuple[int, ...]) -> bytes:
        """Ask for parts of an update, let the agent step, and return their bytes."""
        self.receipt(number, "missing", missing=missing)
        steps(agent)
        return b"".join(body for _, _, body in self.parts())

    def said(self) -> bool:
        """Whether the device has said anything of itself."""
        return TOPICS.status(DEVICE) in self.hub.retained

    def status(self) -> Status:
        """What the device last said of itself."""
        return decode(Status, self.hub.retained[TOPICS.status(DEVICE)])


def steps(agent: Agent, count: int = 6) -> None:
    """Step an agent."""
    for _ in range(count):
        agent.step(0)


PARTS = (0, 1, 2)
