"""What is known of a fleet, read beside its aggregator, or without one: what is going on, each device, its history."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfleet.cloud import schema
from fedfleet.cloud.notes import Standing
from fedfleet.wire.calling import Ability
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Task
from fedfleet.wire.record import build

UNHEARD, UNHEARD_WHY = "unknown", "not heard of since the aggregator started"
ROUNDS = 5  # how many of the last rounds a fleet's state holds
NAMED = 12  # how many known devices an error names


LAST = """
WITH last AS (
    SELECT device AS name, count(*) AS many, max(round) AS newest FROM updates
    WHERE round IN (SELECT round FROM rounds WHERE state = 'closed') {} GROUP BY device
)
SELECT name, many, newest, examples, metrics FROM last JOIN updates ON round = newest AND device = name
"""


@dataclass(frozen=True)
class Ended:
    """A round that is over. What an aggregator had no time to note is 0, or empty. Times are UTC."""

    round: int
    state: str
    reason: str
    called: int
    reported: int
    examples: int
    seconds: float
    bytes_up: int
    began: str
    ended: str
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Fleet:
    """A fleet's state: `running`, `stopped` where no aggregator holds the folder, or `done`; `why` says why it waits.

    `since` is when the open round began, `noted` when all this was last true; `states` counts the devices.
    """

    state: str
    why: str
    closed: int
    since: str
    noted: str
    now: Standing
    states: dict[str, int]
    rounds: tuple[Ended, ...]


@dataclass(frozen=True)
class Device:
    """One device: its last status and when that came (`seen`, UTC), its part in the open round, what it contributed.

    Examples, loss and memory (MiB of resident memory) are those of its last update that went into a model. `version` is
    that of its agent, `release` what it says of the newest one.
    """

    device: str
    state: str
    reason: str
    seen: str
    part: str
    contributed: int
    last_round: int
    examples: int
    loss: float | None
    rss_mib: float | None
    status: dict[str, Any]
    version: str = ""
    release: str = ""


@dataclass(frozen=True)
class Contribution:
    """An update that was counted, and what became of its round."""

    round: int
    state: str
    ended: str
    examples: int
    codec: str
    metrics: dict[str, float]


def fleet(folder: Path) -> Fleet:
    """Return the state of the fleet whose journal is in `folder`; raises StoreError."""
    held = schema.is_held(folder)
    with schema.beside(folder) as database:
        rows = database.execute("SELECT text, noted FROM standing").fetchall()
        now = build(Standing, json.loads(rows[0][0]), strict=False) if rows else Standing()
        count = "SELECT count(*) FROM rounds WHERE state = 'closed'"
        ((closed,),) = database.execute(count)
        open_ = database.execute("SELECT round, began FROM rounds WHERE state = 'open'").fetchall()
        state = "done" if 0 < now.total <= closed else "running" if held else "stopped"
        since = open_[0][1] if open_ else ""
        states, rounds = _states(database), _rounds(database, "state IN ('closed', 'abandoned')", ROUNDS)
        return Fleet(state, _why(state, now), closed, since, rows[0][1] if rows else "", now, states, rounds)


def newest(folder: Path) -> Ended | None:
    """Return the round that made the newest model, if there is one; raises StoreError."""
    with schema.beside(folder) as database:
        return next(iter(_rounds(database, "state = 'closed'", 1)), None)


def devices(folder: Path) -> list[Device]:
    """Return all devices that the fleet has, by name; raises StoreError."""
    with schema.beside(folder) as database:
        return _devices(database, "")


def device(folder: Path, name: str) -> tuple[Device, list[Contribution]]:
    """Return one device and all that it contributed, oldest first; raises SettingsError that names those known."""
    with schema.beside(folder) as database:
        found = _devices(database, name)
        if not found:
            known = [row[0] for row in database.execute("SELECT device FROM devices ORDER BY device")]
            more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
            raise SettingsError(f"no device {name[:36]!r}; known are {', '.join(known[:NAMED]) or 'none yet'}{more}")
        columns = "round, rounds.state, ended, examples, codec, metrics"
        # by way of the rounds: a look-up for each, where the updates alone would all be read
        joined = "FROM rounds CROSS JOIN updates USING (round) WHERE device = ? ORDER BY round"
        rows = database.execute(f"SELECT {columns} {joined}", (name,))
        history = [
            Contribution(number, state, ended, examples, codec, json.loads(metrics))
            for number, state, ended, examples, codec, metrics in rows
        ]
        return found[0], history


def _why(state: str, now: Standing) -> str:
    if state == "done":
        return f"all {now.total} rounds are closed"
    if state == "stopped":
        return "no aggregator holds this folder; start it with fedfleet aggregate, it goes on where it was"
    if now.link:
        return f"the broker is out of reach: {now.link}"
    return now.waiting or "the aggregator is starting"


def _states(database: sqlite3.Connection) -> dict[str, int]:
    state = f"CASE heard WHEN 1 THEN json_extract(status, '$.state') ELSE '{UNHEARD}' END"
    return dict(database.execute(f"SELECT {state}, count(*) FROM devices GROUP BY 1 ORDER BY 1"))


def _rounds(database: sqlite3.Connection, which: str, count: int) -> tuple[Ended, ...]:
    columns = "round, state, began, ended, scores, record"
    query = f"SELECT {columns} FROM rounds WHERE {which} ORDER BY round DESC LIMIT ?"
    found = []
    for number, state, began, end, scores, text in database.execute(query, (count,)).fetchall():
        known = json.loads(text)
        counted = "SELECT count(*), coalesce(sum(examples), 0) FROM updates WHERE round = ?"
        ((reported, examples),) = database.execute(counted, (number,))
        found.append(
            Ended(
                round=number,
                state=state,
                reason=known.get("reason", ""),
                called=known.get("called", 0),
                reported=reported,
                examples=examples,
                seconds=known.get("seconds", 0.0),
                bytes_up=known.get("bytes_up", 0),
                began=began,
                ended=end,
                scores=json.loads(scores),
            )
        )
    return tuple(reversed(found))


def _devices(database: sqlite3.Connection, name: str) -> list[Device]:
    """Return all devices, or the one of that name."""
    one, values = ("AND device = ?", (name,)) if name else ("", ())
    last = {found: row for found, *row in database.execute(LAST.format(one), values)}
    task, counted = _underway(database)
    columns = "device, status, declined, reason, seen, heard"
    found = []
    for each, text, declined, why, seen, heard in database.execute(
        f"SELECT {columns} FROM devices WHERE 1 {one} ORDER BY device", values
    ).fetchall():
        contributed, number, examples, metrics = last.get(each, (0, 0, 0, "{}"))
        status, known = json.loads(text), json.loads(metrics)
        found.append(
            Device(
                device=each,
                state=status["state"] if heard else UNHEARD,
                reason=_reason(status, declined, why, number) if heard else UNHEARD_WHY,
                seen=seen,
                part=_part(each, status, task, counted, declined),
                contributed=contributed,
                last_round=number,
                examples=examples,
                loss=known.get("loss"),
                rss_mib=known.get("rss_mib"),
                status=status,
                version=status.get("version", ""),
                release=status.get("release", ""),
            )
        )
    return found


def _reason(status: dict[str, Any], declined: int, why: str, last: int) -> str:
    """Say why a device waits, or did not take part; not what was mended by its update of round `last`."""
    if status["reason"] and not status["declined"]:
        return str(status["reason"])
    return f"declined round {declined}: {why}" if declined > last else ""


def _underway(database: sqlite3.Connection) -> tuple[Task | None, set[str]]:
    """Return the open round's task, and who has been counted in it."""
    rows = database.execute("SELECT task FROM rounds WHERE state = 'open'").fetchall()
    if not rows:
        return None, set()
    task = build(Task, json.loads(rows[0][0]), strict=False)
    query = "SELECT device FROM updates WHERE round = ? AND task = round"
    return task, {row[0] for row in database.execute(query, (task.round,))}


def _part(name: str, status: dict[str, Any], task: Task | None, counted: set[str], declined: int) -> str:
    """Return a device's part in the open round."""
    if task is None:
        return ""
    if name in counted:
        return "counted"
    if not task.calls(name, build(Ability, status.get("ability", {}), strict=False)):
        return "not called"
    return "declined" if declined == task.round else "called"
