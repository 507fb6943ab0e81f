"""Where an image goes byte by byte: a Protocol, and the block device that fulfils it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fedfleet.wire.errors import SettingsError

FLUSH = 0x1261  # BLKFLSBUF: forget what is remembered of a device


class Target(Protocol):
    """Bytes by their place. All raise OSError; `write` may write less than it is given and returns how much."""

    size: int

    def read(self, start: int, size: int) -> bytes:
        """Return up to `size` bytes as the medium has them, once `sync` has been called."""

    def write(self, start: int, data: bytes) -> int:
        """Write bytes at a place."""

    def sync(self) -> None:
        """Return when all that was written is on the medium."""


class Device:
    """A block device that nobody else uses, as long as this is open. Raises SettingsError where that cannot be had."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be opened for writing: {error.strerror}; unmount it, run as one who may write it"
            ) from None
        self.size = os.lseek(self._file, 0, os.SEEK_END)

    def read(self, start: int, size: int) -> bytes:
        """Return up to `size` bytes."""
        return os.pread(self._file, size, start)

    def write(self, start: int, data: bytes) -> int:
        """Write bytes at a place; return how many."""
        return os.pwrite(self._file, data, start)

    def sync(self) -> None:
        """Return when all is on the medium; what the kernel remembers of it is dropped, so that reading asks anew."""
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        with suppress(OSError):  # root's alone; the line above has done most of it
            fcntl.ioctl(self._file, FLUSH)

    def close(self) -> None:
        """Let others use the device."""
        os.close(self._file)
