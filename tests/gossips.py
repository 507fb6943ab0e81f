"""Gossiping devices in one process over a loopback, by a clock that stands still; and their result by plain NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedfleet.edge.trainer import Trainer
from fedfleet.sim.gossip.graph import Graph, row
from fedfleet.sim.gossip.peer import Entry, Launch, Peer, status
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Bus, Delivery, Will
from fedfleet.wire.codecs import Weights, grow
from fedfleet.wire.examples import stream
from fedfleet.wire.loopback import Hub, LoopbackBus
from fedfleet.wire.messages import Blob, Plan, Task
from fedfleet.wire.record import build
from fedfleet.wire.topics import Topics

PROGRAM = b"no program: the trainer is seeded"
SEED = 5
DEADLINE = 60.0
MANY = 10_000


def start(size: int) -> Weights:
    """What all devices begin with."""
    return np.linspace(-1, 1, size, dtype=np.float32)


def name(index: int) -> str:
    """The name of a device."""
    return f"d{index}"


class Shuffled:
    """A bus that hands over one delivery at a time, in an order of its own."""

    def __init__(self, bus: LoopbackBus, seed: int) -> None:
        self._bus = bus
        self._held: list[Delivery] = []
        self._random = stream("shuffled", seed)

    @property
    def sent(self) -> int:
        return self._bus.sent

    @property
    def received(self) -> int:
        return self._bus.received

    @property
    def pending(self) -> int:
        return 0

    @property
    def connections(self) -> int:
        return 1

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._bus.publish(topic, payload, retain=retain)

    def subscribe(self, pattern: str) -> None:
        self._bus.subscribe(pattern)

    def unsubscribe(self, pattern: str) -> None:
        self._bus.unsubscribe(pattern)

    def deliveries(self, timeout: float) -> list[Delivery]:
        self._held += self._bus.deliveries(timeout)
        return [self._held.pop(int(self._random.random_raw()) % len(self._held))] if self._held else []

    def close(self) -> None:
        self._bus.close()


@dataclass
class World:
    """Devices `d0`, `d1`, ... that gossip below `folder`; `now` is the time of all of them."""

    folder: Path
    wires: Graph
    rounds: int = 4
    size: int = 40
    trainer: Callable[[str], Trainer] = SeededTrainer
    shuffle: int = 0
    now: float = 0.0
    hub: Hub = field(default_factory=Hub)
    buses: dict[str, LoopbackBus] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index in range(len(self.wires)):
            self.begin(index)

    def begin(self, index: int) -> None:
        """Have a device begin its first round."""
        device, folder = name(index), self.folder / name(index)
        folder.mkdir(parents=True)
        (folder / "0.weights").write_bytes(start(self.size).tobytes())
        shares = {name(other): share for other, share in row(self.wires, index).items()}
        blobs = Blob.of(PROGRAM), Blob.of(start(self.size).tobytes())
        launch = Launch(device, "test", shares, self.rounds, SEED, DEADLINE, Plan(), *blobs)
        will = Will(Topics("test").status(device), status("ready"), status("lost"))
        self.buses[device] = bus = self.hub.connect(will)
        through: Bus = Shuffled(bus, self.shuffle + index) if self.shuffle else bus
        self.peers[device] = Peer(launch, folder, through, self.trainer(device), lambda: self.now)

    def step(self, *devices: int) -> None:
        """Step these devices once, or all."""
        for device in map(name, devices) if devices else list(self.peers):
            if device in self.peers:
                self.peers[device].step(0.0)

    def until(self, holds: Callable[[], bool], *devices: int) -> None:
        """Step these devices, or all, until `holds()`; fails where it never does."""
        for _ in range(MANY):
            if holds():
                return
            self.step(*devices)
        raise AssertionError({device: peer.round for device, peer in self.peers.items()})

    def play(self) -> None:
        """Go on until all that live are done."""
        self.until(lambda: all(peer.done for peer in self.peers.values()))

    def reached(self, round_: int) -> bool:
        """Whether all that live have begun `round_`."""
        return all(peer.round >= round_ for peer in self.peers.values())

    def die(self, index: int) -> None:
        """End a device as a crash does; the hub says so."""
        del self.peers[name(index)]
        self.buses[name(index)].die()

    def weights(self, index: int, round_: int) -> Weights:
        """The weights of a device after a round."""
        return np.frombuffer((self.folder / name(index) / f"{round_}.weights").read_bytes(), "<f4")

    def mixed(self, index: int, round_: int) -> list[int]:
        """Whose models a device mixed in a round."""
        found = json.loads((self.folder / name(index) / f"{round_}.json").read_bytes())
        return [int(device[1:]) for device in build(Entry, found, strict=True).mixed]


def dpsgd(
    matrices: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]], size: int, folder: Path
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Every device's weights after a round for each matrix, float64[devices, size]: X <- W (X + what training changed)."""
    models = np.tile(start(size).astype(np.float64), (len(matrices[0]), 1))
    for number, matrix in enumerate(matrices, 1):
        changes = np.zeros_like(models)
        for index in range(len(models)):
            path = folder / "reference"
            path.write_bytes(models[index].astype("<f4").tobytes())
            task = Task(number, Blob.of(PROGRAM), Blob.of(path.read_bytes()), Plan(), seed=SEED, deadline=DEADLINE)
            update = SeededTrainer(name(index)).train(task, path, path, lambda: False)
            assert update is not None
            changes[index] = grow(update.codec, update.delta, size)
        models = matrix @ (models + changes)
    return models
