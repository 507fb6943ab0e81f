"""A repository's folders, and which of its releases is handed out to whom: what an operator decides, and may widen.

metadata/         what is signed, as any TUF client reads it: 1.root.json, ..., timestamp.json
targets/          the files of all releases, <sha256> before each name
staged/           metadata that lacks signatures still
published.json    the version that is handed out, and to whom
blobs/            what the broker is given of it, by digest
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError
from fedfleet.wire.messages import Blob
from fedfleet.wire.record import Mismatch, build, plain
from fedfleet.wire.release import require_whom


@dataclass(frozen=True)
class Published:
    """The version that is handed out: to devices with any of the tags `groups`, all without, and a `share` of these."""

    version: str
    groups: tuple[str, ...] = ()
    share: float = 1.0

    def __post_init__(self) -> None:
        require_whom(self.version, self.groups, self.share)


@dataclass(frozen=True)
class Listed:
    """A release in a repository: for which boards (`machine-python`), with which serial, and of which files."""

    version: str
    board: str
    serial: int
    files: dict[str, Blob]


def publish(repo: Path, what: Published) -> None:
    """Have `what` handed out from now on. Raises SettingsError where the repository has no such version, StoreError."""
    known = sorted({each.version for each in listed(repo)})
    if what.version not in known:
        raise SettingsError(f"{repo} has no signed version {what.version}; known are {', '.join(known) or 'none yet'}")
    files.write(repo / "published.json", json.dumps(plain(what)).encode())


def published(repo: Path) -> Published | None:
    """Return what is handed out, None where nothing is. Raises StoreError."""
    path = repo / "published.json"
    try:
        return build(Published, json.loads(path.read_bytes()), strict=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, Mismatch) as error:
        raise StoreError(f"{path} cannot be read: {error}; publish again") from None


def metadata(repo: Path) -> dict[str, Path]:
    """Return the files of the newest metadata, by role. Raises StoreError."""
    folder = repo / "metadata"
    found = {"timestamp": folder / "timestamp.json"}
    for role, named in (("snapshot", "timestamp"), ("targets", "snapshot")):
        found[role] = folder / f"{_signed(found[named])['meta'][f'{role}.json']['version']}.{role}.json"
    return found


def roots(repo: Path) -> list[Path]:
    """Return the files of all root metadata, oldest first."""
    return sorted((repo / "metadata").glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))


def listed(repo: Path) -> list[Listed]:
    """Return all releases of a repository, oldest first. Raises StoreError."""
    found: dict[tuple[str, str], tuple[int, dict[str, Blob]]] = {}
    for path, file in _signed(metadata(repo)["targets"])["targets"].items():
        version, board, name = path.split("/")
        serial, blobs = found.get((version, board), (0, {}))
        blobs[name] = Blob(file["hashes"]["sha256"], file["length"])
        found[version, board] = (max(serial, file.get("custom", {}).get("serial", 0)), blobs)
    rows = [Listed(version, board, serial, blobs) for (version, board), (serial, blobs) in found.items()]
    return sorted(rows, key=lambda each: each.serial)


def target(repo: Path, release: Listed, name: str) -> Path:
    """Return where a file of a release lies."""
    return repo / "targets" / release.version / release.board / f"{release.files[name].digest}.{name}"


def _signed(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes())["signed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error}; is this a repository of fedfleet release init?") from None
