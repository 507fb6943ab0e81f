"""What an operator may want to know of a running aggregator, noted beside its journal for others to read.

Nothing here is ever read back by the aggregator: what resumes is the journal's, presence the broker's. So a note is not
synced, and one that cannot be written is passed over.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from fedfleet.cloud import schema
from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.presence import Presence
from fedfleet.wire.errors import StoreError
from fedfleet.wire.record import plain

log = logging.getLogger("fedfleet.aggregator")
BATCH = 1000  # devices in one write: some 20 ms, whatever the size of the fleet
PATIENCE = 0.1  # seconds for which a note waits for another process that writes
REASONS = 3
NOTE = f"""
INSERT INTO devices VALUES (?, ?, ?, ?, {schema.NOW}, 1) ON CONFLICT (device) DO UPDATE SET
    seen = CASE WHEN heard = 0 AND status = excluded.status THEN seen ELSE excluded.seen END,
    status = excluded.status, declined = excluded.declined, reason = excluded.reason, heard = 1
"""


@dataclass(frozen=True)
class Standing:
    """What an aggregator is doing: its round, why that waits, and how many devices are known, there, called and so on.

    `reasons` are those of the first devices that declined; `link` says why the broker is out of reach, if it is.
    """

    fleet: str = ""
    strategy: str = ""
    total: int = 0
    round: int = 0
    waiting: str = ""
    link: str = ""
    known: int = 0
    present: int = 0
    called: int = 0
    reported: int = 0
    declined: int = 0
    reasons: tuple[str, ...] = ()


def standing(aggregator: Aggregator, what: Standing) -> Standing:
    """Return `what`, which names the federation, with what `aggregator` is doing now."""
    number, called, reported = aggregator.progress()
    declined, presence = aggregator.declined(), aggregator.presence
    return replace(
        what,
        round=number,
        waiting="" if aggregator.done else aggregator.waiting(),
        known=len(presence.statuses),
        present=len(presence.devices),
        called=called,
        reported=reported,
        declined=len(declined),
        reasons=tuple(": ".join(each) for each in sorted(declined.items())[:REASONS]),
    )


class Notes:
    """The tables `devices` and `standing` and the records of rounds, by a connection of its own."""

    def __init__(self, folder: Path) -> None:
        """Open the journal's database, which `Journal` has brought up. Raises StoreError."""
        self._path = folder / schema.DATABASE
        self._text = ""
        self._silent = False
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=PATIENCE)
            self._db.execute("PRAGMA synchronous=NORMAL")  # in WAL mode: what is lost with the power is the last note
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}; see that you may write it") from None
        self._write(("UPDATE devices SET heard = 0", [()]))

    def devices(self, presence: Presence, now: Standing) -> None:
        """Note whoever has said something new, BATCH devices at most, and what the aggregator is doing."""
        taken, text = list(islice(presence.changed, BATCH)), json.dumps(plain(now))
        if not taken and text == self._text:
            return
        rows = [
            (name, json.dumps(plain(presence.statuses[name])), *presence.declined.get(name, (0, "")))
            for name in taken
            if name in presence.statuses
        ]
        gone = [(name,) for name in taken if name not in presence.statuses]
        noted = ("INSERT OR REPLACE INTO standing VALUES (1, ?, " + schema.NOW + ")", [(text,)])
        if self._write((NOTE, rows), ("DELETE FROM devices WHERE device = ?", gone), noted):
            presence.changed.difference_update(taken)
            self._text = text

    def round(self, record: RoundRecord) -> None:
        """Note what a round was."""
        text = json.dumps(finite(plain(record)))
        self._write(("UPDATE rounds SET record = ? WHERE round = ?", [(text, record.round)]))

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    def _write(self, *statements: tuple[str, list[Any]]) -> bool:
        """Execute all in one transaction; returns whether it stands. Says once why it does not."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for query, rows in statements:
                self._db.executemany(query, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if not self._silent:
                log.warning("%s: %s; fedfleet fleet shows what was noted before", self._path, error)
            self._silent = True
            return False
        self._silent = False
        return True


def finite(value: Any) -> Any:
    """Return `value` with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
