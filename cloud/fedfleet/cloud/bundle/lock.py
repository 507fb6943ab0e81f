"""The versions and hashes that a board's wheels are held to, read from a lock of pip's requirements format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from fedfleet.cloud.bundle.boards import Board
from fedfleet.wire.errors import SettingsError

HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pinned:
    """One package at one version, and the sha256 of each of its files that may be taken."""

    name: str
    version: str
    digests: frozenset[str]

    def line(self) -> str:
        """The requirement as pip reads it."""
        return f"{self.name}=={self.version} " + " ".join(f"--hash=sha256:{digest}" for digest in sorted(self.digests))


def read(path: Path, board: Board) -> list[Pinned]:
    """Return what `board` needs of the lock `path`, by name. Raises SettingsError."""
    try:
        lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the lock of the board's packages cannot be read: {error}") from None
    found = [pinned for line in lines if line.strip() and not line.startswith("#") for pinned in _pinned(line, board)]
    return sorted((pinned for pinned in found if pinned.name not in board.apart), key=lambda pinned: pinned.name)


def _pinned(line: str, board: Board) -> list[Pinned]:
    """The package of a line; none where its marker leaves this board out."""
    try:
        requirement = Requirement(line.partition(" --hash")[0].strip())
    except InvalidRequirement as error:
        raise SettingsError(f"{line[:60]}: no line of a lock: {error}") from None
    digests = frozenset(HASH.findall(line))
    if requirement.marker is not None and not _applies(requirement.marker, board):
        return []
    if not digests:
        raise SettingsError(f"{requirement.name} has no hashes in the lock: make it with --generate-hashes")
    (version,) = (spec.version for spec in requirement.specifier)
    return [Pinned(canonicalize_name(requirement.name), version, digests)]


def _applies(marker: Marker, board: Board) -> bool:
    """Whether a marker holds on the board, which is not what we run on."""
    return marker.evaluate(
        {
            "python_version": board.python,
            "python_full_version": f"{board.python}.0",
            "platform_machine": board.machine,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "platform_python_implementation": "CPython",
            "implementation_name": "cpython",
        }
    )
