"""What the agent asks of a trainer, whether it runs in this process, in a child, or at no cost in a simulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from fedfleet.wire.messages import Task, Update

Stop = Callable[[], bool]


class Hold(NamedTuple):
    """Why work must wait, by a device's own guards: a state to say (`paused`, `asleep`; empty: go on) and the reason.

    `memory` says that standing still does not help, since what training holds is what the board lacks.
    """

    state: str = ""
    reason: str = ""
    memory: bool = False


class Trainer(Protocol):
    """What turns a task into an update."""

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Train as `task` says; None if `stop()` said so between two batches. Raises FedfleetError."""

    def close(self) -> None:
        """End what was started."""
