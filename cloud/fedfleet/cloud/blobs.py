"""Programs, weights and what else has a digest, as files of those names in one folder of the journal's."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from pathlib import Path

from fedfleet.wire import files
from fedfleet.wire.chunks import chunk_name
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import CHUNK, Blob


class Blobs:
    """A folder of blobs. `unnamed` are those that were put for a round which is not noted yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unnamed: set[str] = set()

    def put(self, data: bytes) -> Blob:
        """Keep a blob; returns its name. Raises StoreError."""
        blob = Blob.of(data)
        path = self.folder / blob.digest
        self.unnamed.add(blob.digest)
        if not path.exists():
            files.write(path, data)
        return blob

    def get(self, digest: str) -> bytes:
        """Return a blob's bytes; raises StoreError where it is missing or has rotted."""
        path = self.folder / digest
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"{path} is missing or damaged; restore a backup")
        return data

    def names(self, blob: Blob) -> list[str]:
        """Return the names of a blob's chunks, in order; none where it is not here any more."""
        try:
            with (self.folder / blob.digest).open("rb") as file:
                return [chunk_name(chunk) for chunk in iter(lambda: file.read(CHUNK), b"")]
        except FileNotFoundError:
            return []

    def chunk(self, blob: Blob, index: int) -> bytes:
        """Return one chunk's bytes, as they are on the disk; raises StoreError."""
        try:
            with (self.folder / blob.digest).open("rb") as file:
                file.seek(index * CHUNK)
                return file.read(CHUNK)
        except OSError as error:
            raise StoreError(f"{self.folder / blob.digest}: {error.strerror}; restore a backup") from None


def sweep(folder: Path, needed: Set[str]) -> None:
    """Remove all files but those `needed`. Raises StoreError."""
    for path in list(folder.iterdir()):
        if path.name not in needed:
            files.remove(path)
