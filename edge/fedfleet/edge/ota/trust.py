"""What a device trusts, and how that moves on: The Update Framework's client workflow (specification 1.0, section 5.3).

Root by root, each vouched for by the one before; then timestamp, snapshot, targets, none older than the last. All that
is remembered is one file, written whole:

trust.json   {"anchor": sha256 of the root that the owner gave, "root": ..., "timestamp": ..., "snapshot": ...}

The clock of a board says little: nothing was made before the newest `made` of a timestamp, which is a floor to it. What
was remembered and is not signed by the keys trusted now, was signed by keys that were taken back, and counts no more.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedfleet.edge.ota import canonical
from fedfleet.edge.ota.metadata import Listing, Root, Targets, moment, opened, read
from fedfleet.wire import files
from fedfleet.wire.errors import ReleaseError
from fedfleet.wire.messages import Blob
from fedfleet.wire.record import Mismatch, require

log = logging.getLogger("fedfleet.agent")
ROTATIONS = 256  # new roots in one go
MAX_ROOTS = 4 * 2**20  # bytes of all of them
MAX_STATE = 8 * 2**20
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def wall() -> datetime:
    """What the board's clock says."""
    return datetime.now(UTC)


class Trust:
    """The newest metadata that was vouched for."""

    def __init__(self, path: Path, anchor: bytes, clock: Callable[[], datetime] = wall) -> None:
        """Go on from `path`, or begin with the root metadata `anchor`, which the owner gave. Raises ReleaseError."""
        self._path = path
        self._clock = clock
        self._known: dict[str, Any] = {"anchor": hashlib.sha256(anchor).hexdigest()}
        remembered = self._recall()
        if remembered.get("anchor") == self._known["anchor"]:
            self._known = remembered
        else:  # new, or given another root by its owner, who may
            self._known["root"] = read("root", anchor)
        self.root: Root = opened("root", self._known["root"], None)

    @property
    def floor(self) -> datetime:
        """Before which it cannot be: when the newest timestamp was made."""
        found = self._remembered("timestamp")
        return moment(found.made) if found and found.made else NEVER

    def roots(self, data: bytes) -> None:
        """Follow the chain of roots in `data`, a JSON list, as far as it is sound; raises ReleaseError behind that."""
        if len(data) > MAX_ROOTS:
            raise ReleaseError(f"the roots have {len(data)} bytes; at most {MAX_ROOTS} are taken")
        found = canonical.decode(data)
        if not isinstance(found, list):
            raise ReleaseError("the roots are no list")
        began = self.root.version
        try:
            for value in found:
                self._rotate(value, began)
        finally:
            if self.root.version != began:
                self._remember()

    def timestamp(self, data: bytes) -> Blob:
        """Take a timestamp; returns the snapshot that belongs to it. Raises ReleaseError."""
        value = read("timestamp", data)
        found: Listing = opened("timestamp", value, self.root)
        before = self._remembered("timestamp")
        try:
            made = moment(found.made) if found.made else NEVER
            require(made <= moment(found.expires), "it says that it was made after it expires")
            if before is not None and found.version == before.version:
                found, value = before, self._known["timestamp"]
            elif before is not None:
                require(found.version >= before.version, f"version {found.version} is older than {before.version}")
                old, new = before.next("snapshot").version, found.next("snapshot").version
                require(new >= old, f"its snapshot {new} is older than {old}")
                require(made >= self.floor, "it says that it was made before the one that is known")
        except Mismatch as error:
            raise ReleaseError(f"timestamp.json: {error}") from None
        self._known["timestamp"] = value
        self._remember()  # an expired one as well: no older one is taken any more
        self._lasts("root", self.root.expires)
        self._lasts("timestamp", found.expires)
        return found.next("snapshot").blob

    def snapshot(self, data: bytes) -> Blob:
        """Take the snapshot that the timestamp names; returns the targets that belong to it. Raises ReleaseError."""
        value = read("snapshot", data)
        named = self._newest("timestamp").next("snapshot")
        _same("snapshot", data, named.blob)
        found: Listing = opened("snapshot", value, self.root)
        before = self._remembered("snapshot")
        try:
            require(found.version == named.version, f"it is version {found.version}, not {named.version}")
            for name, old in before.meta.items() if before else ():
                require(name in found.meta, f"{name[:36]} has gone")
                new = found.meta[name].version
                require(new >= old.version, f"its {name[:36]} {new} is older than {old.version}")
        except Mismatch as error:
            raise ReleaseError(f"snapshot.json: {error}") from None
        self._known["snapshot"] = value
        self._remember()
        self._lasts("snapshot", found.expires)
        return found.next("targets").blob

    def targets(self, data: bytes) -> Targets:
        """Return the targets that the snapshot names. Raises ReleaseError."""
        value = read("targets", data)
        named = self._newest("snapshot").next("targets")
        _same("targets", data, named.blob)
        found: Targets = opened("targets", value, self.root)
        if found.version != named.version:
            raise ReleaseError(f"targets.json is version {found.version}, not {named.version}")
        self._lasts("targets", found.expires)
        return found

    def _rotate(self, value: Any, began: int) -> None:
        signed = value.get("signed") if isinstance(value, dict) else None
        number = signed.get("version") if isinstance(signed, dict) else None
        if isinstance(number, int) and number <= self.root.version:
            return
        if number != self.root.version + 1:
            raise ReleaseError(f"root.json {str(number)[:20]} does not follow version {self.root.version}")
        if self.root.version - began >= ROTATIONS:
            raise ReleaseError(f"more than {ROTATIONS} new roots at a time")
        opened("root", value, self.root)
        self.root = opened("root", value, None)
        self._known["root"] = value

    def _remembered(self, role: str) -> Listing | None:
        """What is known of a role and signed by the keys that are trusted now."""
        if role not in self._known:
            return None
        try:
            found: Listing = opened(role, self._known[role], self.root)
        except ReleaseError:
            return None
        return found

    def _newest(self, role: str) -> Listing:
        found = self._remembered(role)
        if found is None:
            raise ReleaseError(f"{role}.json is missing")
        return found

    def _lasts(self, role: str, expires: str) -> None:
        now = max(self._clock(), self.floor)
        if moment(expires) <= now:
            raise ReleaseError(f"{role}.json has expired at {expires}, and it is {now:%Y-%m-%dT%H:%M:%SZ} here")

    def _recall(self) -> dict[str, Any]:
        """What is in the file; nothing where it is damaged, for a device that no one can reach must go on."""
        try:
            if not self._path.exists():
                return {}
            if self._path.stat().st_size > MAX_STATE:
                raise ReleaseError("too large")
            found = canonical.decode(self._path.read_bytes())
            opened("root", found["root"], None)
        except (OSError, KeyError, TypeError, ReleaseError) as error:
            log.warning("%s is damaged (%s); beginning anew with the root that the owner gave", self._path, error)
            return {}
        return dict(found)

    def _remember(self) -> None:
        files.write(self._path, json.dumps(self._known).encode())


def _same(role: str, data: bytes, blob: Blob) -> None:
    if Blob.of(data) != blob:
        raise ReleaseError(f"{role}.json has other bytes than the metadata before it says")
