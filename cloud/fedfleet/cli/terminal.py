"""What all verbs do alike at the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfleet.wire.errors import SettingsError, StoreError


def announce(text: str, *, aside: bool = False) -> None:
    """Print a verb's first line at once, before anything heavy is loaded; `aside` keeps standard output for data."""
    Console(stderr=aside).print(text, highlight=False, soft_wrap=True)


def require_writable(out: Path) -> None:
    """Raise StoreError now, not after minutes of work, where the folder `out` could not be written."""
    nearest = next(path for path in (out, *out.absolute().parents) if os.access(path, os.F_OK))
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise StoreError(f"{out}: cannot be written ({nearest} is in the way); choose another folder")


def sheet(rows: dict[str, str]) -> Table:
    """A report for people: a name and a text in each row."""
    view = Table(box=box.ROUNDED, border_style="dim", show_header=False)
    view.add_column(justify="right", no_wrap=True)
    view.add_column(overflow="fold")
    for name, text in rows.items():
        view.add_row(name, Text(text))
    return view


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C into one line and exit code 130, after everything inside has been ended in order."""
    try:
        yield
    except KeyboardInterrupt:
        print("fedfleet: interrupted; everything that was started has been ended", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import what an extra brings; raises SettingsError that names the extra where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fedfleet"):
            raise
        raise SettingsError(f"{error.name} is not installed: pip install 'fedfleet[{extra}]'") from None
