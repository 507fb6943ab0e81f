"""A run on the terminal, while it happens: one row a round, and below them what the fleet is doing right now.

A row is printed once its round is over and stays, so the last screen and the scrollback hold the whole history; only
the two lines below the rows are redrawn. Without a terminal there is one plain line a round, and nothing is redrawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fedfleet.cloud.federation import RoundRecord
from fedfleet.sim.record import Facts, cells, columns, score, score_text, size_text

WIDTHS = (5, 6, 8, 4, 13, 10, 8, 8, 7)
LATE, SCORE = 3, 4
BAR = 24
REDRAWS = 8


def headline(facts: Facts) -> str:
    """What a run is about, in one line."""
    what = (facts.data, f"{facts.devices} devices", facts.split, facts.strategy, facts.engine, facts.broker)
    return f"{facts.id}: {' · '.join(text for text in what if text)}"


class View(Protocol):
    """Where a run shows how it goes. A context manager."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """Say one line that stays."""

    def round(self, record: RoundRecord) -> None:
        """A round is over."""

    def progress(self, number: int, called: int, reported: int, waiting: str) -> None:
        """Of the devices `called` in round `number` so many have `reported`; `waiting` says what is waited for."""

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """The final answer; the first of `rows` is its heading."""


class Screen:
    """The view of one run. A context manager: leaving it in any way gives the terminal back as it was."""

    def __init__(self, console: Console, head: str, rounds: int, metric: str, unit: str) -> None:
        """Print `head` at once. `rounds` are to come; `metric` and `unit` say what a score is."""
        self._console = console
        self._rounds = rounds
        self._metric = metric
        self._unit = unit
        self._closed = 0
        self._shown: tuple[object, ...] = ()
        self._headed = False
        self._best: float | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._live: Live | None = None
        self._print(Text(head, style="bold"))
        if console.is_terminal and not console.is_dumb_terminal:
            status = self._status("", 0.0, "starting")
            self._live = Live(status, console=console, refresh_per_second=REDRAWS, transient=True)
            self._live.start()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, text: str) -> None:
        """Print `text` above the status."""
        self._print(Text(_printable(text)))

    def round(self, record: RoundRecord) -> None:
        """Print the row of a round that is over, and why if it was abandoned."""
        self._closed += record.state == "closed"
        if self._live is None:
            self._print(Text(self._plain(record)))
            return
        if not self._headed:
            self._print(_line(columns(self._metric), "dim"))
            self._headed = True
        row = _line(cells(record, self._metric, self._unit), "green" if self._is_best(record) else "")
        if record.late:
            row.stylize("yellow", *_span(LATE))
        self._print(row)
        if record.state != "closed":
            self._print(Text(f"      {record.state}: {_printable(record.reason)}", style="yellow"))

    def progress(self, number: int, called: int, reported: int, waiting: str) -> None:
        """Show that of the devices `called` in round `number` so many have `reported`, and what is waited for."""
        shown = (number, called, reported, waiting, self._closed)
        if self._live is None or shown == self._shown:
            return
        self._shown = shown
        head = f"round {number}: {reported} of {called} reported" if called else ""
        self._live.update(self._status(head, reported / called if called else 0.0, waiting), refresh=True)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print the final answer; the first of `rows` is its heading, and the federation's stands out."""
        if self._live is None:
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                self._print(Text("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()))
            return
        view = Table(box=box.ROUNDED, border_style="dim", header_style="bold")
        for index, title in enumerate(rows[0]):
            view.add_column(Text(title), justify="right" if index == 1 else "left")
        for row in rows[1:]:
            style = "bold green" if row[0].startswith(("federation", "gossip, mean")) else ""
            view.add_row(*(Text(cell) for cell in row), style=style)
        self._console.print(view)

    def close(self) -> None:
        """Take the status away and show the cursor again; calling it again does nothing."""
        if self._live is not None and self._live.is_started:
            self._live.stop()

    def _print(self, text: Text) -> None:
        # Soft wrap leaves a long line whole, as a log file wants it.
        self._console.print(text, soft_wrap=True)

    def _status(self, head: str, part: float, waiting: str) -> Group:
        """The two lines that are redrawn: how far, and what for."""
        done = min(self._closed + part, self._rounds)
        line = Table.grid(padding=(0, 1))
        line.add_row(
            self._spinner,
            ProgressBar(total=max(self._rounds, 1), completed=done, width=BAR, complete_style="cyan"),
            Text(f"{self._closed} of {self._rounds} rounds", style="cyan"),
            Text(head),
        )
        return Group(line, Text(f"  {_printable(waiting)}", style="dim", no_wrap=True, overflow="ellipsis"))

    def _is_best(self, record: RoundRecord) -> bool:
        """Whether the model is better than after every round before."""
        value, sign = score(record, self._metric), 1 if self._metric == "accuracy" else -1
        if value is None or not math.isfinite(value):
            return False
        if self._best is not None and sign * value <= sign * self._best:
            return False
        self._best = value
        return True

    def _plain(self, record: RoundRecord) -> str:
        text = score_text(score(record, self._metric), self._metric, self._unit)
        moved = f"up {size_text(record.bytes_up)}, down {size_text(record.bytes_down)}"
        turnout = f"{record.reported} of {record.called} reported, {record.late} late"
        ending = "" if record.state == "closed" else f", {record.state}: {_printable(record.reason)}"
        return f"round {record.round}: {self._metric} {text}, {turnout}, {moved}, {record.seconds:.1f} s{ending}"


def _line(row: Sequence[str], style: str) -> Text:
    """A row at fixed widths, flush right; `style` is that of its score, or of all of it if it is `dim`."""
    text = Text("  ".join(cell.rjust(width) for cell, width in zip(row, WIDTHS, strict=True)).rstrip())
    text.stylize(style, *(() if style == "dim" else _span(SCORE)))
    return text


def _span(column: int) -> tuple[int, int]:
    start = sum(width + 2 for width in WIDTHS[:column])
    return start, start + WIDTHS[column]


def _printable(text: str) -> str:
    """One line of `text` that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
