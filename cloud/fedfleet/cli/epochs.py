"""Central training on the terminal: a bar for the epoch that runs and a line for each that is over, or just that."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fedfleet.cloud.training.job import Passed


class Epochs:
    """The view of one training. A context manager: leaving it in any way gives the terminal back as it was."""

    def __init__(self, console: Console, epochs: int) -> None:
        """`epochs` are to come in all."""
        self._console, self._epochs = console, epochs
        self._began, self._first = time.monotonic(), 0
        self.last: Passed | None = None
        self.rate = 0.0  # steps a second, of the last epoch
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} of {task.total} steps")
        plain = not console.is_terminal or console.is_dumb_terminal
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=plain)
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Epochs:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def passed(self, now: Passed) -> None:
        """Show how far it is."""
        if self.last is None or self.last.epoch < now.epoch:
            self._began, self._first = time.monotonic(), now.step
        self.last = now
        self._bar.update(self._task, description=f"epoch {now.epoch}", completed=now.step, total=now.steps)
        if now.loss is not None:
            seconds = time.monotonic() - self._began
            self.rate = (now.steps - self._first) / max(seconds, 1e-9)
            said = f"epoch {now.epoch} of {self._epochs}: loss {now.loss:.4f}, {seconds:.1f} s, {self.rate:.0f} steps/s"
            self._console.print(said, highlight=False, soft_wrap=True)
