"""Metadata of The Update Framework (specification 1.0), of the four top-level roles: read, bounded, every type checked.

Of what the specification leaves open: timestamp and snapshot must say length and sha256 of what they name, which is how
a device finds it, and a timestamp may say when it was `made`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from fedfleet.edge.ota import canonical
from fedfleet.edge.ota.signatures import Key, Signature, signers
from fedfleet.wire.errors import ReleaseError
from fedfleet.wire.messages import Blob
from fedfleet.wire.record import Mismatch, build, require

BOUNDS = {"root": 512_000, "timestamp": 16_384, "snapshot": 2_000_000, "targets": 5_000_000}  # as python-tuf's client
ROLES = tuple(BOUNDS)
MAX_SIGNATURES, MAX_KEYS = 32, 64
SPEC = re.compile(r"1\.[0-9]{1,3}(\.[0-9]{1,3})?")
MAX_VERSION = 2**53 - 1


class Signed(Protocol):
    """What all roles' metadata says."""

    @property
    def version(self) -> int: ...  # noqa: D102 - the specification's words
    @property
    def expires(self) -> str: ...  # noqa: D102 - the specification's words


S = TypeVar("S", bound=Signed)


@dataclass(frozen=True)
class Role:
    """Whose signatures a role's metadata needs, and how many."""

    keyids: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        require(self.threshold >= 1, "threshold must be at least 1")
        require(len(self.keyids) <= MAX_KEYS, f"more than {MAX_KEYS} keys")


@dataclass(frozen=True)
class Root:
    """Who may sign what."""

    version: int
    expires: str
    keys: dict[str, Key]
    roles: dict[str, Role]

    def __post_init__(self) -> None:
        require(set(ROLES) <= set(self.roles), f"roles must be {', '.join(ROLES)}")
        require(len(self.keys) <= MAX_KEYS, f"more than {MAX_KEYS} keys")

    def vouches(self, role: str, signed: Any, signatures: tuple[Signature, ...]) -> bool:
        """Whether `signed` has as many signatures as `role` needs, of different keys of it. Raises ReleaseError."""
        wanted = self.roles[role]
        keys = {name: self.keys[name] for name in wanted.keyids if name in self.keys}
        return signers(canonical.encode(signed), signatures, keys) >= wanted.threshold


@dataclass(frozen=True)
class Kind:
    """What a target was made for; of two releases the one of higher `serial` is newer."""

    version: str = ""
    machine: str = ""
    python: str = ""
    serial: int = 0


@dataclass(frozen=True)
class File:
    """A file by version, length and hashes, and for a target what it was made for."""

    length: int
    hashes: dict[str, str]
    version: int = 0
    custom: Kind = field(default_factory=Kind)

    @property
    def blob(self) -> Blob:
        """What to fetch. Raises Mismatch."""
        return Blob(self.hashes.get("sha256", ""), self.length)


@dataclass(frozen=True)
class Listing:
    """A timestamp or a snapshot: the one or the ones that come next."""

    version: int
    expires: str
    meta: dict[str, File]
    made: str = ""

    def next(self, role: str) -> File:
        """Return what is said of the metadata of `role`. Raises Mismatch."""
        found = self.meta.get(f"{role}.json")
        if found is None:
            raise Mismatch(f"{role}.json is missing")
        require(1 <= found.version <= MAX_VERSION, f"version of {role}.json must be at least 1")
        require(found.blob.size <= BOUNDS[role], f"{role}.json must have at most {BOUNDS[role]} bytes")
        return found


@dataclass(frozen=True)
class Targets:
    """The files of all releases, by path."""

    version: int
    expires: str
    targets: dict[str, File]


SHAPES: Mapping[str, type[Any]] = {"root": Root, "timestamp": Listing, "snapshot": Listing, "targets": Targets}
AFTER = {"timestamp": "snapshot", "snapshot": "targets"}


def read(role: str, data: bytes) -> Any:
    """Return the JSON value in `data`, which is metadata of `role`, no more of it than there may be."""
    if len(data) > BOUNDS[role]:
        raise ReleaseError(f"{role}.json has {len(data)} bytes; at most {BOUNDS[role]} are taken")
    return canonical.decode(data)


def opened(role: str, value: Any, by: Root | None) -> Any:
    """Return the metadata of `role` in `value`, signed as `by` says; None for one that vouches for itself.

    Raises ReleaseError.
    """
    try:
        require(isinstance(value, dict) and isinstance(value.get("signed"), dict), "it has no part `signed`")
        signed, listed = value["signed"], value.get("signatures")
        require(isinstance(listed, list) and len(listed) <= MAX_SIGNATURES, f"more than {MAX_SIGNATURES} signatures")
        require(signed.get("_type") == role, f"it is of type {str(signed.get('_type'))[:32]!r}")
        require(SPEC.fullmatch(str(signed.get("spec_version"))) is not None, "spec_version must be 1.x")
        found = build(SHAPES[role], signed, strict=False)
        require(1 <= found.version <= MAX_VERSION, "version must be at least 1")
        moment(found.expires)
        if role in AFTER:
            found.next(AFTER[role])
        signatures = tuple(build(Signature, each, strict=False) for each in listed)
    except Mismatch as error:
        raise ReleaseError(f"{role}.json: {error}") from None
    if not (found if by is None else by).vouches(role, signed, signatures):
        raise ReleaseError(f"{role}.json {found.version} is not signed by enough of the keys that are trusted")
    return found


def moment(text: str) -> datetime:
    """Return the time, UTC, that metadata writes as 2026-11-22T00:00:00Z. Raises Mismatch."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Mismatch(f"{text[:32]!r} is not a time such as 2026-11-22T00:00:00Z") from None
