"""Whole old or whole new: every write of state goes through here."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from fedfleet.wire.errors import StoreError


def write(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Replace `path` by `data`: temporary file beside it, synced, renamed, folder synced. Raises StoreError.

    What is `secret` nobody but the owner can read, from its first byte on.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb", opener=_private if secret else None) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):  # what kept us from writing may keep us from tidying up as well
            temporary.unlink()
        raise _unwritten(path, error) from None


def put(path: Path, start: int, data: bytes) -> None:
    """Write `data` as the end of the file `path`, from byte `start` on, and sync it. Raises StoreError."""
    try:
        made = not path.exists()
        with path.open("xb" if made else "r+b") as file:
            file.seek(start)
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        if made:
            sync(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from None


def settle(temporary: Path, path: Path) -> None:
    """Give the file `temporary` the name `path`: synced, renamed, folder synced. Raises StoreError."""
    try:
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from None


def digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove the file `path` if it is there. Raises StoreError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error.strerror}") from None


def scrub(path: Path) -> None:
    """Overwrite the file `path`, then remove it; nothing where it is not there. Raises StoreError.

    Flash memory may keep the old bytes in cells that it no longer shows: what was in the file must be of no use.
    """
    try:
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be scrubbed: {error.strerror}") from None


def sync(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unwritten(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be written: {error.strerror}; free the disk or check it")
