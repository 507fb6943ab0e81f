"""The journal's database: its schema as steps from version to version, the one writer's lock, and readers beside it.

One aggregator holds the folder, by a lock on the file `lock` that ends with its process. The database itself is open
to others: in WAL mode they read what was last committed and wait for nothing.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from fedfleet.wire import files
from fedfleet.wire.errors import StoreError

DATABASE = "journal.sqlite"
VERSION = 8
LOCK = "lock"
LOOKS, LOOK = 5, 0.02  # how often a lock that is held is tried again, and after how many seconds
PATIENCE = 10.0  # seconds for which a write waits for that of another process
NOW = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"
ROUNDS = """
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, task TEXT NOT NULL, state TEXT NOT NULL, weights TEXT, moments TEXT
) STRICT;
CREATE TABLE updates (
    round INTEGER NOT NULL, device TEXT NOT NULL, examples INTEGER NOT NULL, codec TEXT NOT NULL,
    start INTEGER NOT NULL, size INTEGER NOT NULL, delta TEXT NOT NULL, metrics TEXT NOT NULL,
    PRIMARY KEY (round, device)
) STRICT;
"""
LINEAGE = """
ALTER TABLE rounds ADD COLUMN made TEXT;
ALTER TABLE rounds ADD COLUMN strategy TEXT NOT NULL DEFAULT '';
ALTER TABLE rounds ADD COLUMN scores TEXT NOT NULL DEFAULT '{}';
ALTER TABLE rounds ADD COLUMN began TEXT NOT NULL DEFAULT '';
ALTER TABLE rounds ADD COLUMN ended TEXT NOT NULL DEFAULT '';
ALTER TABLE rounds ADD COLUMN origin INTEGER;
UPDATE rounds SET made = weights;
CREATE TABLE marks (name TEXT PRIMARY KEY, round INTEGER NOT NULL, since TEXT NOT NULL) STRICT;
"""
FLEET = """
ALTER TABLE rounds ADD COLUMN record TEXT NOT NULL DEFAULT '{}';
CREATE TABLE devices (
    device TEXT PRIMARY KEY, status TEXT NOT NULL, declined INTEGER NOT NULL, reason TEXT NOT NULL,
    seen TEXT NOT NULL, heard INTEGER NOT NULL
) STRICT;
CREATE TABLE standing (id INTEGER PRIMARY KEY CHECK (id = 1), text TEXT NOT NULL, noted TEXT NOT NULL) STRICT;
"""
JUDGED = """
ALTER TABLE rounds ADD COLUMN federated TEXT NOT NULL DEFAULT 'null';
ALTER TABLE rounds ADD COLUMN gate TEXT NOT NULL DEFAULT '';
"""
STALE = """
ALTER TABLE updates RENAME TO before_stale;
CREATE TABLE updates (
    round INTEGER NOT NULL, device TEXT NOT NULL, examples INTEGER NOT NULL, codec TEXT NOT NULL,
    start INTEGER NOT NULL, size INTEGER NOT NULL, delta TEXT NOT NULL, metrics TEXT NOT NULL,
    task INTEGER NOT NULL, PRIMARY KEY (round, device, task)
) STRICT;
INSERT INTO updates SELECT *, round FROM before_stale;
DROP TABLE before_stale;
"""
TRAINED = "ALTER TABLE rounds ADD COLUMN training TEXT NOT NULL DEFAULT 'null';"
REFINED = "ALTER TABLE rounds ADD COLUMN refined TEXT NOT NULL DEFAULT 'null';"
STEPS = {
    0: (2, ROUNDS),
    2: (3, LINEAGE),
    3: (4, FLEET),
    4: (5, JUDGED),
    5: (6, STALE),
    6: (7, TRAINED),
    7: (8, REFINED),
}
"""From a version to the next: which that is, and the SQL. A new database takes all steps, so it is like an old one."""


def hold(folder: Path) -> int:
    """Lock `folder` for this process; returns the file descriptor that holds it. Raises StoreError, OSError."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        time.sleep(LOOK)  # whoever asks `is_held` holds it for a moment
    os.close(handle)
    raise StoreError(f"{folder} is in use; is another aggregator using this folder? stop it first")


def is_held(folder: Path) -> bool:
    """Whether an aggregator, or another writer of the journal, holds `folder` now. Raises StoreError."""
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; read it as a user who may") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def opened(path: Path) -> sqlite3.Connection:
    """Open the database for its one writer, made where it is missing, brought to VERSION. Raises StoreError."""
    try:
        found = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; choose a state folder you may write") from None
    try:
        _look(path)
        _bring_up(found, path)
    except StoreError:
        found.close()
        raise
    except sqlite3.OperationalError as error:
        found.close()
        busy = error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        remedy = "is another aggregator using this folder?" if busy else "free the disk or check it"
        raise StoreError(f"{path}: {error}; {remedy}") from None
    except sqlite3.DatabaseError as error:
        found.close()
        raise StoreError(f"{path} is damaged: {error}; restore a backup or choose another state folder") from None
    return found


@contextmanager
def beside(folder: Path, *, writes: bool = False, oldest: int = VERSION) -> Iterator[sqlite3.Connection]:
    """Yield the database of `folder`, which an aggregator may be using; one of a version below `oldest` is refused.

    With `writes` all that is done stands in one transaction. Raises StoreError, also for what SQLite says meanwhile.
    """
    path = folder / DATABASE
    if not path.is_file():
        raise StoreError(f"{path}: no such journal; name the state folder of an aggregator")
    try:
        uri = f"{path.absolute().as_uri()}?mode={'rw' if writes else 'ro'}"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=PATIENCE)) as found:
            (version,) = found.execute("PRAGMA user_version").fetchone()
            if not oldest <= version <= VERSION:
                how = "start its aggregator once" if version < oldest else "use the newer fedfleet"
                raise StoreError(f"{path} has schema {version}, this fedfleet knows {VERSION}; {how}")
            found.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            yield found
            found.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; see that you may write beside it and no older fedfleet uses it") from None


def copy(database: sqlite3.Connection, path: Path) -> None:
    """Write all that was committed to `database` into a file of its own. Raises StoreError, sqlite3.Error."""
    temporary = path.with_name(f".{path.name}.tmp")
    files.remove(temporary)
    with closing(sqlite3.connect(temporary)) as target:
        database.backup(target)
    files.settle(temporary, path)


def _look(path: Path) -> None:
    """Raise StoreError for another's journal whose writer was killed; to close it as a writer would move its log."""
    log = path.with_name(f"{path.name}-wal")
    if log.is_file() and log.stat().st_size:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            _version(database, path)


def _version(database: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version; raises StoreError for one that we cannot bring up."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version != VERSION and version not in STEPS:  # nothing of a newer journal is touched
        which = "newer" if version > VERSION else "older"
        raise StoreError(
            f"{path} has schema {version}, this fedfleet knows {VERSION}; use the {which} fedfleet, "
            "or choose another state folder"
        )
    return int(version)


def _bring_up(database: sqlite3.Connection, path: Path) -> None:
    version = _version(database, path)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        database.execute(f"PRAGMA {pragma}")
    if 0 < version < VERSION:
        copy(database, path.with_name(f"{path.name}.v{version}"))
    script = ""
    while version != VERSION:
        version, step = STEPS[version]
        script += step
    if script:
        database.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={VERSION}; COMMIT;")
