"""A boot partition: by mtools where it lies in an image or on a device, by plain files where it is mounted.

Neither needs root or a mount. mtools sees the image as an open file (`/proc/self/fd/N@@start`), so that no name of a
file can be taken for anything else, and stamps files with one time, so that the same settings make the same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Protocol

from fedfleet.cloud.flash.partitions import Extent, cluster
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError

STAMP = "1767225600"  # 2026-01-01; FAT knows no time before 1980
ENVIRONMENT = {
    "MTOOLSRC": "/dev/null",
    "MTOOLS_SKIP_CHECK": "1",
    "SOURCE_DATE_EPOCH": STAMP,
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
}


class Boot(Protocol):
    """The files of a boot partition; names are relative, with `/` between folders. Writing raises StoreError."""

    cluster: int

    def names(self) -> frozenset[str]:
        """Return the names of all files."""

    def free(self) -> int:
        """Return the bytes that are free."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes as the medium has them, or None where there is no such file."""

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, its folder made."""

    def remove(self, name: str) -> None:
        """Remove a file that is there."""

    def sync(self) -> None:
        """Return when all that was written is on the medium."""


class Fat:
    """A FAT partition inside the open image or device `file`, by mtools."""

    def __init__(self, file: int, extent: Extent, name: str) -> None:
        if shutil.which("mcopy") is None:
            raise SettingsError("mtools is not installed, which writes on cards without root: apt install mtools")
        self._file, self._name, self._listed = file, name, list[str]()
        self._drive = f"/proc/self/fd/{file}@@{extent.start}"
        self.cluster = cluster(file, extent, name)

    def names(self) -> frozenset[str]:
        """Return the names of all files."""
        return frozenset(name.removeprefix("::/") for name in self._list() if not name.endswith("/"))

    def free(self) -> int:
        """Return the bytes that are free."""
        found = re.search(r"([\d ]+) bytes free", self._run("mdir", "::").decode("utf-8", "replace"))
        return int(found[1].replace(" ", "")) if found else 0

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        return self._run("mcopy", "-n", f"::/{name}", "-") if name in self.names() else None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, its folder made."""
        for folder in reversed(PurePosixPath(name).parents[:-1]):
            if f"::/{folder}/" not in self._list():
                self._run("mmd", f"::/{folder}")
                self._listed = []
        self._run("mcopy", "-o", "-", f"::/{name}", data=data)
        self._listed = []

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        self._run("mdel", f"::/{name}")
        self._listed = []

    def sync(self) -> None:
        """Return when all that was written is on the medium, and forget what is remembered of it."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise StoreError(f"{self._name} cannot be written: {error.strerror}; try another card") from None
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def _list(self) -> list[str]:
        """All files and folders; asked for once as long as nothing is written."""
        if not self._listed:
            self._listed = self._run("mdir", "-/", "-b", "-a", "::").decode("utf-8", "replace").splitlines()
        return self._listed

    def _run(self, command: str, *arguments: str, data: bytes = b"") -> bytes:
        done = subprocess.run(
            [command, "-i", self._drive, *arguments],
            input=data,
            capture_output=True,
            pass_fds=(self._file,),
            env={**os.environ, **ENVIRONMENT},
            check=False,
        )
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no word why"]
            raise StoreError(
                f"{self._name}: its boot partition cannot be used: {command}: {words[0]}; take another image"
            )
        return done.stdout


class Folder:
    """A boot partition that is mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cluster = max(os.statvfs(path).f_bsize, 512)

    def names(self) -> frozenset[str]:
        """Return the names of all files."""
        return frozenset(str(file.relative_to(self._path)) for file in self._path.rglob("*") if file.is_file())

    def free(self) -> int:
        """Return the bytes that are free."""
        return shutil.disk_usage(self._path).free

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes as the disk has them, or None where there is no such file."""
        try:
            with (self._path / name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._path / name} cannot be read: {error.strerror}; try another card") from None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, its folder made."""
        try:
            (self._path / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self._path / name} cannot be written: {error.strerror}") from None
        files.write(self._path / name, data)

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        files.remove(self._path / name)

    def sync(self) -> None:
        """Return when the names of all files are on the medium; each file is since it was written."""
        files.sync(self._path)
