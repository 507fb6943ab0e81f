"""The screens of `fedfleet fleet`, as tables for a terminal and as lines for a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedfleet.cloud.fleet import Contribution, Device, Ended, Fleet

PAUSE = 1.0  # seconds between two looks
TITLES = ("device", "state", "why", "last seen (UTC)", "this round", "rounds", "last", "examples", "loss", "MiB")
UPDATED = ("version", "release")  # shown where a device says such


class Screen(NamedTuple):
    """What is shown: `table` on a terminal, `lines` elsewhere. Without a table, lines even on a terminal."""

    table: RenderableType | None
    lines: list[str]


def status(found: Fleet) -> Screen:
    """Return the screen of a fleet's state."""
    now = found.now
    turnout = f"{now.called} called, {now.reported} reported, {now.declined} declined"
    rows = {
        "fleet": f"{now.fleet or '-'}, {now.strategy or '-'}",
        "aggregator": found.state,
        "round": f"{now.round}, {found.closed} of {now.total} closed",
        "since (UTC)": found.since or "-",
        "why": found.why,
        "devices": ", ".join(f"{count} {state}" for state, count in found.states.items()) or "none yet",
        "in the round": turnout,
        "declined": "\n".join(now.reasons) or "-",
        "noted (UTC)": found.noted or "-",
    }
    table = _table(())
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    told = f"round {now.round}: {turnout}; {found.state}: {found.why}"
    lines = [*map(_ended, found.rounds), printable(told)]
    if not found.rounds:
        return Screen(table, lines)
    last = _table(("round", "ended (UTC)", "how", "reported", "seconds", "metrics or why"))
    for each in found.rounds:
        cells = (each.round, each.ended, each.state, _turnout(each), f"{each.seconds:.1f}", _outcome(each))
        last.add_row(*(Text(printable(str(cell))) for cell in cells))
    return Screen(Group(table, last), lines)


def devices(found: Sequence[Device]) -> Screen:
    """Return the screen of all devices, a line each."""
    more = any(each.version or each.release for each in found)
    table = _table((*TITLES, *(UPDATED if more else ())))
    for each in found:
        table.add_row(*(Text(cell) for cell in (*_cells(each), *(_updated(each) if more else ()))))
    return Screen(table, [_told(each) for each in found])


def device(found: Device, history: Sequence[Contribution]) -> Screen:
    """Return the screen of one device and of what it contributed."""
    table = _table(())
    updated = zip(UPDATED, _updated(found), strict=True) if found.version or found.release else ()
    for name, cell in (*zip(TITLES, _cells(found), strict=True), *updated):
        table.add_row(name, Text(cell or "-"))
    past = _table(("round", "ended (UTC)", "how", "examples", "codec", "loss", "seconds", "MiB"))
    lines = [_told(found)]
    for each in history:
        numbers = (_number(each.metrics.get(name)) for name in ("loss", "seconds", "rss_mib"))
        cells = (str(each.round), each.ended or "-", each.state, f"{each.examples:,}", each.codec, *numbers)
        past.add_row(*(Text(printable(cell)) for cell in cells))
        lines.append(printable("  ".join(cells)))
    return Screen(Group(table, past) if history else table, lines)


def watch(look: Callable[[], Screen], console: Console) -> None:
    """Show what `look` returns until Ctrl-C: redrawn each second on a terminal, elsewhere the lines that are new."""
    try:
        first = look()
        if first.table is None or not console.is_terminal or console.is_dumb_terminal:
            _follow(look, first, console)
        with Live(first.table, console=console, auto_refresh=False, screen=False) as live:
            while True:
                time.sleep(PAUSE)
                live.update(look().table or "", refresh=True)
    except KeyboardInterrupt:
        return


def _follow(look: Callable[[], Screen], first: Screen, console: Console) -> None:
    """Print the lines of each look that the one before did not have, for ever."""
    said: list[str] = []
    lines = first.lines
    while True:
        for line in lines:
            if line not in said:
                console.file.write(f"{line}\n")
        console.file.flush()
        said = lines
        time.sleep(PAUSE)
        lines = look().lines


def printable(text: str) -> str:
    """Return `text` without what could steer a terminal; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _table(titles: Sequence[str]) -> Table:
    table = Table(box=box.ROUNDED, border_style="dim", show_header=bool(titles))
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap="UTC" in title)
    if not titles:
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
    return table


def _cells(found: Device) -> tuple[str, ...]:
    numbers = (str(found.contributed), str(found.last_round or "-"), f"{found.examples:,}")
    known = (found.device, found.state, found.reason, found.seen, found.part, *numbers)
    return tuple(printable(cell) for cell in (*known, _number(found.loss), _number(found.rss_mib)))


def _updated(found: Device) -> tuple[str, str]:
    return printable(found.version), printable(found.release)


def _told(found: Device) -> str:
    """One device in a line; without when it was seen, which would be news each second."""
    why = f" ({found.reason})" if found.reason else ""
    part = f", {found.part}" if found.part else ""
    last = f", last {found.last_round}, loss {_number(found.loss)}" if found.last_round else ""
    version = f"; version {found.version}" if found.version else ""
    release = f"; release {found.release}" if found.release else ""
    return printable(f"{found.device}: {found.state}{why}{part}; {found.contributed} rounds{last}{version}{release}")


def _ended(found: Ended) -> str:
    return printable(
        f"round {found.round} {found.state}: {_turnout(found)} reported, {found.seconds:.1f} s; {_outcome(found)}"
    )


def _turnout(found: Ended) -> str:
    return f"{found.reported} of {found.called}" if found.called else str(found.reported)


def _outcome(found: Ended) -> str:
    """How good the model is after a round; why it was abandoned, if it was."""
    scores = {name: value for name, value in found.scores.items() if value is not None}
    good = ", ".join(f"{name} {value:.4f}" for name, value in scores.items()) or "no metrics"
    return good if found.state == "closed" else found.reason or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
