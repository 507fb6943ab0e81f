"""Log lines as JSON: one object a line, whatever is said in it."""

from __future__ import annotations

import json
import logging
import math
import sys

from fedfleet.cli.logs import Lines
from fedfleet.cloud.intake import log
from fedfleet.wire.errors import StoreError


def line(message: str, *arguments: object, level: int = logging.WARNING, **fields: object) -> dict[str, object]:
    record = logging.getLogger("x").makeRecord("x", level, "file", 1, message, arguments, None, extra=fields)
    record.created = 1700000000.25
    text = Lines().format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text, parse_constant=lambda name: name)
    return found


def test_a_line_has_time_level_logger_and_message() -> None:
    assert line("refused an update of %s: %s", "d1", 'odd "text"\n\x1b') == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "logger": "x",
        "message": 'refused an update of d1: odd "text"\n\x1b',
    }


def test_fields_stand_by_their_names_and_no_others() -> None:
    found = line("x", level=logging.INFO, device="d1", round=4, other=5, scores={"loss": math.nan})
    assert {key: found[key] for key in ("device", "round", "scores", "level")} == {
        "device": "d1",
        "round": 4,
        "scores": {"loss": None},
        "level": "info",
    }
    assert "other" not in found


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise StoreError("full")
    except StoreError:
        record = log.makeRecord("x", logging.ERROR, "file", 1, "it failed", (), sys.exc_info())
    assert json.loads(Lines().format(record))["traceback"].endswith("StoreError: full")
