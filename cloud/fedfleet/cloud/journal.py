"""The aggregator's memory: SQLite in WAL mode beside a folder of blobs named by digest.

An update is in here, synced, before its receipt is sent; a round's result before the next task is published. Opening
the journal again finds the open round with all it has counted. Of models, the newest KEPT stay on the disk.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedfleet.wire import files
from fedfleet.wire.chunks import chunk_name
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import CHUNK, Blob, Task, Update
from fedfleet.wire.record import build, plain

KEPT = 3
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, task TEXT NOT NULL, state TEXT NOT NULL, weights TEXT, moments TEXT
) STRICT;
CREATE TABLE updates (
    round INTEGER NOT NULL, device TEXT NOT NULL, examples INTEGER NOT NULL, codec TEXT NOT NULL,
    delta TEXT NOT NULL, metrics TEXT NOT NULL, PRIMARY KEY (round, device)
) STRICT;
"""


class Model(NamedTuple):
    """A global model: the round that made it, its weights, the server optimizer's moments; digests of blobs."""

    round: int
    weights: str
    moments: str


class Journal:
    """The aggregator's folder. Not for several processes at once: who opens it first keeps the database locked."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`, made where it is missing; raises StoreError where it is damaged, newer or in use."""
        self._blobs = folder / "blobs"
        self._path = path = folder / "journal.sqlite"
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be made: {error.strerror}; choose a state folder you may write"
            ) from None
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}; choose a state folder you may write") from None
        try:
            self._open(path)
        except StoreError:
            self._db.close()
            raise
        except sqlite3.OperationalError as error:
            self._db.close()
            raise StoreError(f"{path}: {error}; is another aggregator using this folder?") from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(f"{path} is damaged: {error}; restore a backup or choose another state folder") from None

    def _open(self, path: Path) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version in (0, SCHEMA_VERSION):  # nothing of a newer journal is touched
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                self._db.execute(f"PRAGMA {pragma}")
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema {version}, this fedfleet knows {SCHEMA_VERSION}; use the newer fedfleet"
            )

    def put(self, data: bytes) -> Blob:
        """Keep a blob; returns its name."""
        blob = Blob.of(data)
        path = self._blobs / blob.digest
        if not path.exists():
            files.write(path, data)
        return blob

    def get(self, digest: str) -> bytes:
        """Return a blob's bytes; raises StoreError where it is missing or has rotted."""
        path = self._blobs / digest
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"{path} is missing or damaged; restore a backup")
        return data

    def names(self, blob: Blob) -> list[str]:
        """Return the names of a blob's chunks, in order; none where it is not here any more."""
        try:
            with (self._blobs / blob.digest).open("rb") as file:
                return [chunk_name(chunk) for chunk in iter(lambda: file.read(CHUNK), b"")]
        except FileNotFoundError:
            return []

    def chunk(self, blob: Blob, index: int) -> bytes:
        """Return one chunk's bytes, as they are on the disk; raises StoreError."""
        try:
            with (self._blobs / blob.digest).open("rb") as file:
                file.seek(index * CHUNK)
                return file.read(CHUNK)
        except OSError as error:
            raise StoreError(f"{self._blobs / blob.digest}: {error.strerror}; restore a backup") from None

    def open_round(self, task: Task) -> None:
        """Note that `task` is about to be published."""
        text = json.dumps(plain(task))
        self._run("INSERT INTO rounds (round, task, state) VALUES (?, ?, 'open')", task.round, text)

    def count(self, update: Update) -> None:
        """Note one counted update; synced when this returns."""
        delta = self.put(update.delta).digest
        row = (update.round, update.device, update.examples, update.codec, delta, json.dumps(update.metrics))
        self._run("INSERT OR IGNORE INTO updates VALUES (?, ?, ?, ?, ?, ?)", *row)

    def close_round(self, round_: int, weights: bytes, moments: bytes) -> None:
        """Note the model that `round_` made; drop the differences that it was made of, and models that are too old."""
        row = (self.put(weights).digest, self.put(moments).digest, round_)
        self._run("UPDATE rounds SET state = 'closed', weights = ?, moments = ? WHERE round = ?", *row)
        self._drop_deltas(round_)
        self._drop_models()

    def abandon_round(self, round_: int) -> None:
        """Note that `round_` ended without a quorum; the model stays as it was."""
        self._run("UPDATE rounds SET state = 'abandoned' WHERE round = ?", round_)
        self._drop_deltas(round_)

    def model(self) -> Model | None:
        """Return the newest global model, None before the first round has closed."""
        rows = self._run(
            "SELECT round, weights, moments FROM rounds WHERE state = 'closed' ORDER BY round DESC LIMIT 1"
        )
        return Model(*rows[0]) if rows else None

    def last_round(self) -> int:
        """Return the number of the newest round, 0 before the first."""
        ((found,),) = self._run("SELECT max(round) FROM rounds")
        return found or 0

    def closed_rounds(self) -> int:
        """Return how many rounds have made a model."""
        ((found,),) = self._run("SELECT count(*) FROM rounds WHERE state = 'closed'")
        return int(found)

    def open_task(self) -> Task | None:
        """Return the task of the round that was open when the journal was last used."""
        return self._task("SELECT task FROM rounds WHERE state = 'open'")

    def ended_task(self) -> Task | None:
        """Return the task of the newest round that has ended, whatever came of it."""
        return self._task("SELECT task FROM rounds WHERE state != 'open' ORDER BY round DESC LIMIT 1")

    def updates(self, round_: int) -> Iterator[Update]:
        """Yield the updates that `round_` has counted, in the order of device ids."""
        query = "SELECT device, examples, codec, delta, metrics FROM updates WHERE round = ? ORDER BY device"
        for device, examples, codec, delta, metrics in self._run(query, round_):
            yield Update(round_, device, examples, codec, self.get(delta), json.loads(metrics))

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()

    def _drop_deltas(self, round_: int) -> None:
        # A difference may have the bytes of a model: from zero weights, one device's is the next one.
        models = "SELECT weights FROM rounds WHERE weights IS NOT NULL"
        for (digest,) in self._run(f"SELECT delta FROM updates WHERE round = ? AND delta NOT IN ({models})", round_):
            files.remove(self._blobs / digest)

    def _drop_models(self) -> None:
        """Remove what older rounds name and no other needs; a round forgets its names last, in case we are cut off."""
        query = "SELECT round, task, weights, moments FROM rounds WHERE weights IS NOT NULL ORDER BY round DESC"
        rows, underway = self._run(query), self.open_task()
        needed = {digest for _, _, *made in rows[:KEPT] for digest in made}
        needed |= {underway.program.digest, underway.weights.digest} if underway else set()
        for number, task, *made in rows[KEPT:]:
            for digest in {json.loads(task)["weights"]["digest"], *made} - needed:
                files.remove(self._blobs / digest)
            self._run("UPDATE rounds SET weights = NULL, moments = NULL WHERE round = ?", number)

    def _task(self, query: str) -> Task | None:
        rows = self._run(query)
        return build(Task, json.loads(rows[0][0]), strict=False) if rows else None

    def _run(self, query: str, *values: str | int) -> list[Any]:
        """Execute one statement, synced when this returns, and return its rows. Raises StoreError."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}; free the disk or restore a backup") from None
