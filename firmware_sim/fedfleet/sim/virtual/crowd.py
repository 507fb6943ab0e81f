"""Devices in such numbers that only those whom a task calls are there as agents; the others are a row of numbers each.

A device that is not called only remembers that, and whoever misses that round learns of the next one all the same: so
nothing is lost by leaving it asleep. It counts as connected all along. What goes wrong does so for those who are awake.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedfleet.edge.state import Memory, State
from fedfleet.edge.trainer import Trainer
from fedfleet.sim.fleet import device_id
from fedfleet.sim.virtual.air import Air
from fedfleet.sim.virtual.boards import Board
from fedfleet.wire.messages import Status, Task, decode, encode
from fedfleet.wire.record import plain
from fedfleet.wire.topics import Topics

BORN = Memory(0, 1)


class Crowd:
    """`devices` of them; a folder holds those who are awake."""

    def __init__(
        self, air: Air, topics: Topics, folder: Path, devices: int, trainer: Callable[[str, Path], Trainer]
    ) -> None:
        self.boards: dict[str, Board] = {}
        self._air = air
        self._topics = topics
        self.folder = folder
        self._devices = devices
        self._trainer = trainer
        self._task: Task | None = None
        self._memories: dict[str, Memory] = {}  # of those that have been called
        payload = encode(Status("ready", BORN.boot))
        air.retained.update((topics.status(device_id(index)), payload) for index in range(devices))
        air.watch(topics.task, self._wake)

    def _wake(self, payload: bytes) -> None:
        """A task has been published: let those live that it calls."""
        self._task = decode(Task, payload) if payload else None
        if self._task:
            for device in called(self._task, self._devices):
                self._call(device, self._task)

    def _call(self, device: str, task: Task) -> None:
        if device not in self.boards and self._memories.get(device, BORN).round < task.round:
            self._start(device, task.round)

    def _start(self, device: str, round_: int) -> None:
        folder = self.folder / device / "state"
        folder.mkdir(parents=True)
        memory = self._memories.get(device, BORN)
        (folder / "memory.json").write_text(json.dumps(plain(memory)))
        trainer = self._trainer(device, folder / "examples")
        board = Board(device, self._topics, self._air, folder, trainer, partial(self._sleep, device))
        self.boards[device] = board
        board.start(round_)

    def _sleep(self, device: str, state: State) -> None:
        """A device has nothing left to do: keep its row and drop all else."""
        self._memories[device] = Memory(state.round, state.boot)
        del self.boards[device]
        self._air.forget(device)
        shutil.rmtree(self.folder / device)
        if self._task and self._task.calls(device):  # a task that was on its way to it
            self._call(device, self._task)


def called(task: Task, devices: int) -> list[str]:
    """Return who of `d0` to `d<devices - 1>` is called: each would find that out for itself."""
    return [device for device in map(device_id, range(devices)) if task.calls(device)]
