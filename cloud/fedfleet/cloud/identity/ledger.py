"""The ledger: which claims were given out, who asked by them, every certificate by its serial, and what was revoked.

SQLite in WAL mode: the desk writes, commands write beside it, the aggregator reads. No private key is ever in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fedfleet.cloud.identity.folder import LEDGER
from fedfleet.wire.errors import StoreError

VERSION = 1
PATIENCE = 10.0  # seconds for which a write waits for that of another process
SCHEMA = """
CREATE TABLE claims (
    id TEXT PRIMARY KEY, grp TEXT NOT NULL, device TEXT NOT NULL, accepts INTEGER NOT NULL, expires REAL NOT NULL,
    wants TEXT NOT NULL DEFAULT '', key TEXT NOT NULL DEFAULT '', csr TEXT NOT NULL DEFAULT '',
    asked REAL NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'unused', reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY, name TEXT NOT NULL, grp TEXT NOT NULL, claim TEXT NOT NULL, key TEXT NOT NULL,
    pem TEXT NOT NULL, made REAL NOT NULL, ends REAL NOT NULL,
    revoked REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX by_name ON certificates (name);
CREATE UNIQUE INDEX by_key ON certificates (key);
CREATE TABLE allowed (device TEXT PRIMARY KEY) STRICT;
"""


class Claim(NamedTuple):
    """A claim that was given out, and who has asked by it: state is unused, pending, accepted, refused or issued.

    `device` is whom it is bound to, if to anybody; `wants` the name that was asked for by it, with the public key whose
    SHA-256 is `key`. With `accepts`, no operator is asked.
    """

    id: str
    group: str
    device: str
    accepts: bool
    expires: float
    wants: str = ""
    key: str = ""
    csr: str = ""
    asked: float = 0.0
    state: str = "unused"
    reason: str = ""


class Certificate(NamedTuple):
    """A client certificate of a device, or of a claim: `revoked` is when, 0 while it is not."""

    serial: str
    name: str
    group: str
    claim: str
    key: str
    pem: str
    made: float
    ends: float
    revoked: float = 0.0
    reason: str = ""


class Ledger:
    """The ledger in the folder `pki`, for one thread; others may be open beside it. Raises StoreError."""

    def __init__(self, pki: Path, *, new: bool = False) -> None:
        """Open it; `new` makes it, where there is none."""
        self.path = pki / LEDGER
        if not new and not self.path.is_file():
            raise StoreError(f"{self.path}: no such ledger; name a folder that `fedfleet pki init` has made")
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=PATIENCE)
            ((version,),) = self._run("PRAGMA user_version")
            if new:
                self._run("PRAGMA journal_mode=WAL")
                self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            elif version != VERSION:
                raise StoreError(f"{self.path} has schema {version}, this fedfleet knows {VERSION}; use the newer one")
            self._run("PRAGMA synchronous=FULL")
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done inside, synced when this ends, or none of it; nobody else writes meanwhile."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def claim(self, name: str) -> Claim | None:
        """Return the claim of that name."""
        return next(iter(self._claims("WHERE id = ?", name)), None)

    def claims(self) -> list[Claim]:
        """Return all claims, those that wait for an operator first."""
        return self._claims("ORDER BY state != 'pending', asked DESC, expires, id")

    def accepted(self) -> list[Claim]:
        """Return the claims that an operator has accepted, and that the desk has not served yet."""
        return self._claims("WHERE state = 'accepted' AND csr != '' ORDER BY asked")

    def certified(self, key: str) -> Certificate | None:
        """Return the certificate for the public key of that SHA-256, whatever has become of it."""
        return next(iter(self._certificates("WHERE key = ?", key)), None)

    def certificates(self) -> list[Certificate]:
        """Return all certificates that were made for claims and devices, by name, older ones first."""
        return self._certificates("ORDER BY name, made, serial")

    def live(self, name: str, now: float) -> list[Certificate]:
        """Return the certificates of `name` that are neither revoked nor over, older ones first."""
        return self._certificates("WHERE name = ? AND revoked = 0 AND ends > ? ORDER BY made, serial", name, now)

    def allowed(self) -> set[str]:
        """Return the devices that need no operator to accept them."""
        return {device for (device,) in self._run("SELECT device FROM allowed")}

    def revoked(self) -> list[tuple[str, float]]:
        """Return serial and time of all that was revoked, as a list of revoked certificates holds them."""
        return self._run("SELECT serial, revoked FROM certificates WHERE revoked > 0 ORDER BY revoked, serial")

    def denied(self) -> set[str]:
        """Return the names that are shut out: all of their certificates were revoked."""
        query = "SELECT name FROM certificates GROUP BY name HAVING min(revoked) > 0"
        return {name for (name,) in self._run(query)}

    def add(self, claim: Claim) -> None:
        """Note a claim that is given out."""
        self._run(f"INSERT INTO claims VALUES ({', '.join('?' * len(claim))})", *claim)

    def ask(self, claim: str, device: str, key: str, csr: str, now: float) -> None:
        """Note who has asked by a claim, which serves no other key from now on."""
        state = "CASE state WHEN 'unused' THEN 'pending' ELSE state END"
        query = f"UPDATE claims SET wants = ?, key = ?, csr = ?, asked = ?, state = {state} WHERE id = ?"
        self._run(query, device, key, csr, now, claim)

    def settle(self, claim: str, state: str, reason: str = "") -> None:
        """Note what has become of a claim."""
        self._run("UPDATE claims SET state = ?, reason = ? WHERE id = ?", state, reason, claim)

    def certify(self, certificate: Certificate) -> None:
        """Note a certificate that was made."""
        self._run(f"INSERT INTO certificates VALUES ({', '.join('?' * len(certificate))})", *certificate)

    def allow(self, device: str, *, allowed: bool = True) -> None:
        """Put a device on the list of those that need no operator, or take it off."""
        query = "INSERT OR IGNORE INTO allowed VALUES (?)" if allowed else "DELETE FROM allowed WHERE device = ?"
        self._run(query, device)

    def revoke(self, name: str, now: float, reason: str = "") -> list[str]:
        """Revoke all certificates of `name` that were not; it must be accepted anew to come back. Returns serials."""
        self.allow(name, allowed=False)
        query = "UPDATE certificates SET revoked = ?, reason = ? WHERE name = ? AND revoked = 0 RETURNING serial"
        return [serial for (serial,) in self._run(query, now, reason, name)]

    def _claims(self, where: str, *values: str | float) -> list[Claim]:
        found = [Claim(*row) for row in self._run(f"SELECT * FROM claims {where}", *values)]
        return [claim._replace(accepts=bool(claim.accepts)) for claim in found]

    def _certificates(self, where: str, *values: str | float) -> list[Certificate]:
        return [Certificate(*row) for row in self._run(f"SELECT * FROM certificates {where}", *values)]

    def _run(self, query: str, *values: str | float) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def _refused(self, error: sqlite3.Error) -> StoreError:
        return StoreError(f"{self.path}: {error}; see that you may write it, or restore a backup")
