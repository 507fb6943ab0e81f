"""The aggregator's memory: SQLite in WAL mode beside a folder of blobs named by digest.

An update is in here, synced, before its receipt is sent; a round's result before the next task is published. Opening
the journal again finds the open round with all it has counted. Of models, the newest KEPT stay on the disk, and those
that have a name; of the rounds that made them all that is known, for ever.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fedfleet.cloud import schema
from fedfleet.cloud.blobs import Blobs, sweep
from fedfleet.cloud.refine.plan import Refinement
from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Task, Update
from fedfleet.wire.record import build, plain

HEADER = 100  # bytes of every SQLite database; one with fewer is taken for a new one
KEPT = 3
BROUGHT = "state IN ('rolled back', 'trained')"
MADE = "state IN ('closed', 'rolled back', 'trained')"
BEFORE = f"coalesce((SELECT max(round) FROM rounds WHERE round < ?1 AND {MADE}), 0)"
OPEN_ROUND = "SELECT round FROM rounds WHERE state = 'open'"


class Model(NamedTuple):
    """A global model: the round that made it, its weights, the server optimizer's moments; digests of blobs.

    `strategy` is the name of that which made it, empty where an older fedfleet has noted none. `state` is `closed` for
    one that devices made, `rolled back` for an older one that was gone back to, `trained` for one that the cloud made.
    """

    round: int
    weights: str
    moments: str
    strategy: str
    state: str = "closed"

    @property
    def brought(self) -> bool:
        """Whether no round made it: devices may never have had it."""
        return self.state != "closed"


class Journal:
    """The aggregator's folder. Not for several processes at once: who opens it first keeps it locked."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`, made where it is missing; raises StoreError where it is damaged, newer or in use."""
        self.folder = folder
        self.blobs = Blobs(folder / "blobs")
        self._updates = folder / "updates"
        self._path = folder / schema.DATABASE
        self._end = 0, 0  # the round that was counted in last, and the length of its differences
        try:
            made = not folder.exists()
            self.blobs.folder.mkdir(parents=True, exist_ok=True)
            self._updates.mkdir(exist_ok=True)
            if made:
                files.sync(folder.absolute().parent)  # SQLite itself makes durable what is in the folder
            self._lock = schema.hold(folder)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be made: {error.strerror}; choose a state folder you may write"
            ) from None
        try:
            self._require_database()
            self._db = schema.opened(self._path)
        except StoreError:
            os.close(self._lock)
            raise

    def open_round(self, task: Task, strategy: str = "") -> None:
        """Note that `task` is about to be published, by the strategy of that name."""
        row = (task.round, json.dumps(plain(task)), strategy)
        columns = "round, task, strategy, state, began"
        self._run(f"INSERT INTO rounds ({columns}) VALUES (?, ?, ?, 'open', {schema.NOW})", *row)
        self.blobs.unnamed.clear()

    def count(self, *updates: Update, into: int = 0) -> None:
        """Note updates that count in the round `into`, or in their own; all are synced, in one go, when this returns.

        Their differences stand one behind the other in a file of the round; what a crash left behind the last one that
        the database knows is written over. Raises StoreError.
        """
        if not updates:
            return
        round_ = into or updates[0].round
        rows, start = [], self._end[1] if self._end[0] == round_ else self._length(round_)
        for update in updates:
            metrics = json.dumps(update.metrics)
            told = update.device, update.examples, update.codec
            rows.append((round_, *told, start, update.blob.size, update.blob.digest, metrics, update.round))
            start += update.blob.size
        files.put(self._deltas(round_), rows[0][4], b"".join(update.delta for update in updates))
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._end = round_, start

    def close_round(self, round_: int, weights: bytes, moments: bytes, refined: Refinement | None = None) -> None:
        """Note the model that `round_` made, and how it was refined, if it was.

        The differences that it was made of are dropped, and models that are too old.
        """
        made, how = self.blobs.put(weights).digest, json.dumps(plain(refined) if refined else None)
        values = f"state = 'closed', ended = {schema.NOW}, made = ?, weights = ?, moments = ?, refined = ?"
        found = (made, made, self.blobs.put(moments).digest, how)
        self._run(f"UPDATE rounds SET {values} WHERE round = ?", *found, round_)
        self.tidy()

    def abandon_round(self, round_: int) -> None:
        """Note that `round_` ended without a quorum; the model stays as it was."""
        self._run(f"UPDATE rounds SET state = 'abandoned', ended = {schema.NOW} WHERE round = ?", round_)
        self.tidy()

    def score(self, round_: int, scores: Mapping[str, float]) -> None:
        """Note how good the model is after `round_`; a score that is no number is noted as none."""
        finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
        self._run("UPDATE rounds SET scores = ? WHERE round = ?", json.dumps(finite), round_)

    def unscored(self) -> int:
        """Return the round of the newest model if it was never scored, else 0."""
        rows = self._run(f"SELECT round, scores FROM rounds WHERE {MADE} ORDER BY round DESC LIMIT 1")
        return rows[0][0] if rows and rows[0][1] == "{}" else 0

    def roll_back(self, round_: int) -> int:
        """Let the next round start from the model that `round_` made; returns the number under which that is noted.

        A round that is open is abandoned: its differences are from other weights. Raises StoreError.
        """
        rows = self._run("SELECT weights, moments FROM rounds WHERE round = ? AND weights IS NOT NULL", round_)
        if not rows:
            raise StoreError(f"the model of round {round_} is not kept; choose one that is, or restore a backup")
        for digest in rows[0]:
            self.blobs.get(digest)  # whole, or nothing is changed
        number = self.last_round() + 1
        with self._transaction():
            self._db.execute(f"UPDATE rounds SET state = 'abandoned', ended = {schema.NOW} WHERE state = 'open'")
            copied = "task, weights, moments, made, strategy, scores, federated, refined"
            self._db.execute(
                f"INSERT INTO rounds (round, state, began, ended, origin, {copied}) "
                f"SELECT ?, 'rolled back', {schema.NOW}, {schema.NOW}, round, {copied} FROM rounds WHERE round = ?",
                (number, round_),
            )
        self.tidy()
        return number

    def model(self) -> Model | None:
        """Return the newest global model, whoever made it, or the older one that was gone back to; None before one."""
        columns = "round, weights, moments, strategy, state"
        rows = self._run(f"SELECT {columns} FROM rounds WHERE {MADE} ORDER BY round DESC LIMIT 1")
        return Model(*rows[0]) if rows else None

    def last_round(self) -> int:
        """Return the number of the newest round, 0 before the first."""
        ((found,),) = self._run("SELECT max(round) FROM rounds")
        return found or 0

    def closed_rounds(self) -> int:
        """Return how many rounds have made a model."""
        ((found,),) = self._run("SELECT count(*) FROM rounds WHERE state = 'closed'")
        return int(found)

    def contributors(self, first: int) -> int:
        """Return how many devices have contributed to a model in round `first` or later."""
        query = "SELECT count(DISTINCT device) FROM updates JOIN rounds USING (round)"
        ((found,),) = self._run(f"{query} WHERE state = 'closed' AND round >= ?", first)
        return int(found)

    def lineage(self, most: int) -> tuple[int, tuple[int, ...]]:
        """Return the round that the present line of models began with, and the newest `most` abandoned ones since.

        It begins with the first of all rounds, or anew where a model was gone back to or trained; 0 before that.
        """
        began = f"coalesce(max(CASE WHEN {BROUGHT} THEN round END), min(round), 0)"
        ((first,),) = self._run(f"SELECT {began} FROM rounds")
        query = "SELECT round FROM rounds WHERE state = 'abandoned' AND round >= ? ORDER BY round DESC LIMIT ?"
        return first, tuple(sorted(number for (number,) in self._run(query, first, most)))

    def open_task(self) -> Task | None:
        """Return the task of the round that was open when the journal was last used."""
        return self._task("SELECT task FROM rounds WHERE state = 'open'")

    def ended_task(self) -> Task | None:
        """Return the task of the newest round that has ended, whatever came of it."""
        ended = "state IN ('closed', 'abandoned')"
        return self._task(f"SELECT task FROM rounds WHERE {ended} ORDER BY round DESC LIMIT 1")

    def updates(self, round_: int) -> Iterator[Update]:
        """Yield the updates that `round_` has counted, in the order of device ids, of each the older ones first."""
        query = "SELECT device, examples, codec, start, size, delta, metrics, task FROM updates WHERE round = ?"
        rows = self._run(f"{query} ORDER BY device, task", round_)
        for device, examples, codec, start, size, digest, metrics, task in rows:
            data = self._delta(round_, start, size)
            if hashlib.sha256(data).hexdigest() != digest:
                raise StoreError(f"{self._deltas(round_)} is missing or damaged; restore a backup")
            yield Update(task, device, examples, codec, data, json.loads(metrics))

    def counted(self, oldest: int, before: int) -> set[tuple[int, str]]:
        """Return whose updates, and for the tasks of which rounds from `oldest` on, count in rounds below `before`."""
        query = "SELECT task, device FROM updates WHERE round >= ? AND round < ? AND task >= ?"
        return set(self._run(query, oldest, before, oldest))

    def tidy(self) -> None:
        """Remove the files that no round needs any more, whoever left them behind. Raises StoreError.

        Of the updates that an older model was made of, and of those of the rounds before it that were abandoned, it
        stays who sent them and how many examples they had. All in one transaction, so that no other process gives a
        name to a model while it is removed; a round forgets its names last, in case we are cut off.
        """
        with self._transaction():
            rows = self._run("SELECT round, weights, moments FROM rounds WHERE weights IS NOT NULL ORDER BY round DESC")
            named = {number for (number,) in self._run("SELECT round FROM marks")}
            kept = [row for i, row in enumerate(rows) if i < KEPT or row[0] in named]
            tasks = [task for task in (self.open_task(), self.ended_task()) if task]
            needed = self.blobs.unnamed | {digest for _, *made in kept for digest in made}
            needed |= {blob.digest for task in tasks for blob in (task.program, *task.moving)}
            sweep(self.blobs.folder, needed)
            sweep(self._updates, {str(number) for (number,) in self._run(OPEN_ROUND)})
            for number in (row[0] for row in rows if row not in kept):
                self._run("UPDATE rounds SET weights = NULL, moments = NULL WHERE round = ?", number)
                forget = "UPDATE updates SET delta = '', metrics = '{}'"
                self._run(f"{forget} WHERE round <= ?1 AND round > {BEFORE}", number)

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _require_database(self) -> None:
        """Raise StoreError where there are models, and the database that knows of them has gone or is empty."""
        size = self._path.stat().st_size if self._path.is_file() else 0
        if size < HEADER and any(self.blobs.folder.iterdir()):
            raise StoreError(
                f"{self._path} is {'cut off' if size else 'empty or missing'}, with models beside it; "
                "restore a backup or choose another state folder"
            )

    def _deltas(self, round_: int) -> Path:
        return self._updates / str(round_)

    def _length(self, round_: int) -> int:
        """How many bytes of the file of a round's differences the database knows."""
        rows = self._run("SELECT coalesce(max(start + size), 0) FROM updates WHERE round = ?", round_)
        return int(rows[0][0])

    def _delta(self, round_: int, start: int, size: int) -> bytes:
        try:
            with self._deltas(round_).open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError:
            return b""

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is done inside, synced when this ends, or none of it. Raises StoreError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}; free the disk or restore a backup") from None
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _task(self, query: str) -> Task | None:
        rows = self._run(query)
        return build(Task, json.loads(rows[0][0]), strict=False) if rows else None

    def _run(self, query: str, *values: str | int) -> list[Any]:
        """Execute one statement, synced when this returns, and return its rows. Raises StoreError."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}; free the disk or restore a backup") from None
