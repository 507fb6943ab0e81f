"""A whole federation in virtual time: one heap of events, one seed, one digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedfleet.edge.trainer import Trainer
from fedfleet.sim.fleet import device_id
from fedfleet.sim.virtual.air import Air
from fedfleet.sim.virtual.boards import Board
from fedfleet.sim.virtual.clock import Clock
from fedfleet.sim.virtual.cloud import Build, Cloud, Look
from fedfleet.sim.virtual.crowd import Crowd
from fedfleet.sim.virtual.faults import Faults
from fedfleet.wire.topics import Topics

AWAKE = 5000


class VirtualFleet:
    """Devices `d0`, `d1`, ... and their aggregator under one clock. Call `step` until `done`."""

    def __init__(
        self,
        folder: Path,
        devices: int,
        topics: Topics,
        build: Build,
        trainer: Callable[[str, Path], Trainer],
        faults: Faults,
        seed: int,
        killed: Look = lambda _, __: None,
        awake: int = AWAKE,
    ) -> None:
        """`trainer` makes one for a device and its store; `folder` holds `cloud`, and `devices/ID/state` for each.

        Of more than `awake` devices, only those that a task calls are there as agents, and no folder of theirs stays.
        """
        self.clock = Clock()
        self.air = Air(self.clock, faults, seed)
        self.cloud = Cloud(self.air, folder / "cloud", build, killed)
        self.boards: list[Board] = []
        self.clock.at(0.0, self.cloud.start)
        self.crowd = Crowd(self.air, topics, folder / "devices", devices, trainer) if devices > awake else None
        for device in map(device_id, range(0 if self.crowd else devices)):
            state = folder / "devices" / device / "state"
            board = Board(device, topics, self.air, state, trainer(device, state / "examples"))
            self.boards.append(board)
            self.clock.at(0.0, board.start)

    @property
    def done(self) -> bool:
        """Whether the aggregator has made all its rounds."""
        return self.cloud.aggregator is not None and self.cloud.aggregator.done

    def play(self, until: float) -> bool:
        """Let happen what happens before `until`, or until it is done; returns whether it is."""
        while not self.done and self.clock.now < until and self.clock.step():
            pass
        return self.done

    @property
    def trail(self) -> str:
        """The digest of every message that has passed the broker so far, and of its time."""
        return self.air.trail.hexdigest()

    def close(self) -> None:
        """End all devices and the aggregator."""
        for board in [*self.boards, *(self.crowd.boards.values() if self.crowd else ())]:
            board.close()
        self.cloud.close()
