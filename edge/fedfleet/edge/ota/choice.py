"""Which of the signed targets a board installs: the release of the version asked for that was made for such a board."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from fedfleet.edge.ota.metadata import File, Kind, Targets
from fedfleet.wire.bundle import FILE, MAX_FILE, Bundle, parse
from fedfleet.wire.errors import ReleaseError
from fedfleet.wire.messages import Blob
from fedfleet.wire.record import Mismatch, require


@dataclass(frozen=True)
class Board:
    """What wheels must have been made for: the processor as `uname -m` says it, and Python's version."""

    machine: str
    python: str

    def __str__(self) -> str:
        return f"{self.machine} with Python {self.python}"

    def folder(self, version: str) -> str:
        """Where the targets of `version` for such a board are."""
        return f"{version}/{self.machine}-{self.python}"


@dataclass(frozen=True)
class Chosen:
    """A release that is for this board, and the targets that it may be made of, by name."""

    kind: Kind
    release: Blob
    files: dict[str, Blob]


def board() -> Board:
    """Return what this board is; a 32-bit system under a 64-bit kernel takes 32-bit wheels."""
    machine = os.uname().machine
    narrow = sys.maxsize < 2**32 and machine == "aarch64"
    return Board("armv7l" if narrow else machine, f"{sys.version_info.major}.{sys.version_info.minor}")


def choose(listed: Targets, version: str, here: Board) -> Chosen:
    """Return the release `version` for the board `here`. Raises ReleaseError."""
    folder = here.folder(version) + "/"
    found = listed.targets.get(folder + FILE)
    if found is None:
        raise ReleaseError(f"there is none for {here}")
    try:
        kind = found.custom
        same = (kind.version, kind.machine, kind.python) == (version, here.machine, here.python)
        require(same, f"it was made for {kind.machine} with Python {kind.python}, not for {here}")
        require(found.length <= MAX_FILE, f"{FILE} must have at most {MAX_FILE} bytes")
        files = {
            path.removeprefix(folder): file.blob for path, file in listed.targets.items() if path.startswith(folder)
        }
        return Chosen(kind, found.blob, files)
    except Mismatch as error:
        raise ReleaseError(str(error)) from None


def known(listed: Targets, version: str, here: Board) -> tuple[Blob, int] | None:
    """Return `release.json` and serial of a version, where it is listed for such a board."""
    found: File | None = listed.targets.get(here.folder(version) + "/" + FILE)
    try:
        return (found.blob, found.custom.serial) if found else None
    except Mismatch:
        return None


def bundle(data: bytes, chosen: Chosen) -> Bundle:
    """Return what is in the `release.json` of `chosen`, every wheel of it a signed target. Raises ReleaseError."""
    try:
        found, kind = parse(data), chosen.kind
        same = (found.version, found.machine, found.python) == (kind.version, kind.machine, kind.python)
        require(same, f"{FILE} says that it is {found.version} for {found.machine} with Python {found.python}")
        for wheel in found.wheels:
            require(chosen.files.get(wheel.name) == wheel.blob, f"{wheel.name} is not among the signed files")
    except Mismatch as error:
        raise ReleaseError(str(error)) from None
    return found
