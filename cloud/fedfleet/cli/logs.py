"""What a command that serves says: lines for people, or one JSON object a line for what collects logs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import typer
from rich.console import Console

from fedfleet.cloud.notes import finite
from fedfleet.wire.errors import FedfleetError

log = logging.getLogger("fedfleet.aggregator")
FIELDS = ("round", "device", "state", "scores", "seconds", "reported", "called")
Say = Callable[..., None]
"""Takes a line of text, and FIELDS by name."""


class Format(StrEnum):
    """How a command says what it does."""

    text = "text"
    json = "json"


class Lines(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, logger, message, and what else it knows of FIELDS."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(finite(found))


def voice(format_: Format) -> Say:
    """Return what says a line, to standard output; with `json` all that is logged goes there in the same form."""
    if format_ is Format.json:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(Lines())
        logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
        return lambda text, **fields: log.info("%s", text, extra=fields)
    console = Console()
    return lambda text, **_: console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def ending(format_: Format) -> Iterator[None]:
    """With `json`, say in that form too what ends the command: a mistake, with 2, and Ctrl-C, with 130."""
    try:
        yield
    except FedfleetError as error:
        if format_ is Format.text:
            raise
        log.error("%s", error)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if format_ is Format.text:
            raise
        log.info("interrupted; everything that was started has been ended")
        raise typer.Exit(130) from None
