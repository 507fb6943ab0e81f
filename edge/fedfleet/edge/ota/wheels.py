"""Wheels into a slot's folder: unpacked from a file that was checked, or taken over from a slot that has them."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fedfleet.wire.errors import ReleaseError, StoreError

MAX_FILES = 20_000  # of one wheel
MAX_BYTES = 512 * 2**20  # of one wheel, unpacked
MAX_RECORD = 8 * 2**20
STEP = 8 * 2**20
TIMES = 5  # what wheels grow to on the disk, themselves included: a little more than numpy does
SPARE = 32 * 2**20  # what an update leaves free on the disk


def unpack(wheel: Path, site: Path) -> Iterator[None]:
    """Unpack `wheel` into `site`: files and folders that stay in it, none twice; a step for some MiB, which are synced.

    A small board takes a minute for a large wheel, and its watchdog no more. Raises ReleaseError, StoreError.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [entry for entry in archive.infolist() if not entry.is_dir()]
            _bounded(wheel.name, members, site)
            written = 0
            for entry in members:
                path = inside(site, entry.filename)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, path.open("xb") as file:
                    while part := source.read(2**16):
                        file.write(part)
                        written += len(part)
                        if written >= STEP:
                            os.fsync(file.fileno())
                            written = 0
                            yield
    except FileExistsError as error:
        raise ReleaseError(f"{wheel.name}: {error.filename} is there already") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ReleaseError(f"{wheel.name} is no wheel: {error}") from None
    except OSError as error:
        raise _trouble(site, error) from None


def take_over(name: str, old: Path, site: Path) -> bool:
    """Link the files of the wheel `name` from the slot folder `old` into `site`; whether all are there, and unharmed.

    Which these are, the wheel's own RECORD says. Raises StoreError.
    """
    try:
        listed = _record(name, old)
        if not all(_sound(old, path, digest) for path, digest in listed):
            return False
        for path, _ in listed:
            target = inside(site, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(inside(old, path), target)
    except (ReleaseError, FileExistsError, UnicodeDecodeError, csv.Error):
        return False
    except OSError as error:
        raise _trouble(site, error) from None
    return bool(listed)


def has(name: str, old: Path) -> bool:
    """Whether the slot folder `old` has all files of the wheel `name`, unharmed."""
    try:
        listed = _record(name, old)
        return bool(listed) and all(_sound(old, path, digest) for path, digest in listed)
    except (OSError, ReleaseError, UnicodeDecodeError, csv.Error):
        return False


def room(folder: Path, fetched: int) -> None:
    """Raise StoreError where wheels of `fetched` bytes had better not be fetched: they could not be unpacked."""
    found = os.statvfs(folder)
    if fetched and found.f_bavail * found.f_frsize < TIMES * fetched + SPARE:
        raise StoreError(f"{folder} has no room for a release of {fetched} bytes, unpacked; free the disk")


def inside(folder: Path, name: str) -> Path:
    """Return the path `name` below `folder`. Raises ReleaseError for one that leaves it."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or {"..", "."} & set(name.split("/")) or "\\" in name or "\0" in name:
        raise ReleaseError(f"the path {name[:80]!r} leaves the slot")
    return folder / path


def _bounded(name: str, members: list[zipfile.ZipInfo], site: Path) -> None:
    whole = sum(entry.file_size for entry in members)
    if len(members) > MAX_FILES or whole > MAX_BYTES:
        raise ReleaseError(f"{name} has {len(members)} files of {whole} bytes; at most {MAX_FILES} of {MAX_BYTES}")
    for entry in members:
        inside(site, entry.filename)
        if (kind := stat.S_IFMT(entry.external_attr >> 16)) not in (0, stat.S_IFREG):
            raise ReleaseError(f"{name}: {entry.filename[:80]} is no plain file ({kind:o})")
    found = os.statvfs(site)
    if found.f_bavail * found.f_frsize < whole + SPARE:
        raise StoreError(f"{site.parent} has no room for {whole} bytes of {name}; free the disk")


def _record(name: str, old: Path) -> list[tuple[str, str]]:
    """Paths and digests that the RECORD of a wheel names; none where it has none."""
    record = old / f"{'-'.join(name.split('-')[:2])}.dist-info" / "RECORD"
    if not record.is_file() or record.stat().st_size > MAX_RECORD:
        return []
    rows = csv.reader(record.read_text(encoding="utf-8").splitlines())
    return [(row[0], row[1]) for row in rows if len(row) > 1]


def _sound(old: Path, name: str, wanted: str) -> bool:
    path = inside(old, name)
    if not path.is_file() or path.is_symlink():
        return False
    if not wanted:  # RECORD itself
        return path.name == "RECORD"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return wanted == "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _trouble(site: Path, error: OSError) -> StoreError:
    return StoreError(f"{error.filename or site} cannot be written: {error.strerror}; free the disk or check it")
