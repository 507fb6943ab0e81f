"""How far a comparison is: one line for each way when it is done, and below them one that says what goes on now."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.text import Text

from fedfleet.cloud.federation import RoundRecord
from fedfleet.sim.record import score, score_text


class Line:
    """The status of a comparison. A context manager: leaving it in any way gives the terminal back as it was."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._way = ""
        there = console.is_terminal and not console.is_dumb_terminal
        self._status = Status("starting", console=console) if there else None

    def __enter__(self) -> Line:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def begin(self, way: str) -> None:
        """Say which way is run now."""
        self._way = way
        self.tell("starting")

    def tell(self, text: str) -> None:
        """Say how far it is."""
        if self._status:
            self._status.update(Text(f"{self._way}: {text}"))

    def say(self, text: str) -> None:
        """Say a line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def view(self, console: Console, head: str, rounds: int, metric: str, unit: str) -> Brief:
        """The view of one run of a fleet, as `simulate` makes it; `console` is not used, as this line has its own."""
        return Brief(self, rounds, metric, unit)


class Brief:
    """A run of a fleet in the line of a comparison."""

    def __init__(self, line: Line, rounds: int, metric: str, unit: str) -> None:
        self._line, self._rounds, self._metric, self._unit = line, rounds, metric, unit

    def __enter__(self) -> Brief:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was taken."""

    def say(self, text: str) -> None:
        """Nothing: a run's lines are in its own folder."""

    def round(self, record: RoundRecord) -> None:
        """Say how far it is, and how good."""
        text = score_text(score(record, self._metric), self._metric, self._unit)
        self._line.tell(f"round {record.round} of {self._rounds}, {self._metric} {text}")

    def progress(self, number: int, called: int, reported: int, waiting: str) -> None:
        """Nothing: a round is short enough."""

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Nothing: the comparison has one of its own."""
