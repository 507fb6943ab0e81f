"""Programs and weights on their way to the disk: only the chunks that are not there yet, a few at a time.

blobs/<sha256>       whole and checked
blobs/<sha256>.part  what has come so far; each chunk is known by its name, so nothing else need be remembered of it

After any end, of the link, the broker, the aggregator or the device, the chunks in the file are hashed again and those
that are not what the manifest says are asked for. Chunks that other blobs on the disk have are taken from there.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from fedfleet.wire import files
from fedfleet.wire.bus import Bus
from fedfleet.wire.chunks import NAME, Want, chunk_name, length, only_name, open_manifest
from fedfleet.wire.errors import FrameError, StoreError
from fedfleet.wire.messages import CHUNK, Blob, draw, encode
from fedfleet.wire.topics import Topics

WINDOW = 3  # chunks that are asked for and not here yet: what a download takes of a small board's memory
STALL = (10.0, 300.0)
PART = ".part"


class Download:
    """One blob's file while it grows. Its chunks are written as they come and synced once, at the end."""

    def __init__(self, blob: Blob, folder: Path) -> None:
        """Go on with `blob` in `folder`, where it may have been begun before. Raises StoreError."""
        self.blob = blob
        self._folder = folder
        self._path = folder / (blob.digest + PART)
        # as few bytes as it takes: a blob may have 4,096 chunks, and a board little memory
        self.names = b""
        self._missing = bytearray()
        if blob.chunks == 1:
            self.begin(bytes.fromhex(only_name(blob)))

    def begin(self, names: bytes) -> None:
        """Learn which chunks there are, by their names of 16 bytes, and find those that need not come.

        These are here already, or in another blob. Raises StoreError.
        """
        self.names, self._missing = names, bytearray(b"\1" * self.blob.chunks)
        try:
            with self._path.open("ab") as file:
                begun = file.tell() > 0
                file.truncate(self.blob.size)
            for index, name in enumerate(self._found() if begun else self._blank()):
                self._missing[index] = bytes.fromhex(name) != names[index * NAME : (index + 1) * NAME]
            for path in self._folder.iterdir() if self.blob.chunks > 1 else []:
                self._borrow(path)
        except OSError as error:
            raise _trouble(self._path, error) from None

    def wanted(self, most: int) -> list[str]:
        """The names of the first chunks that have not come, `most` of them at most, in order."""
        found: dict[str, None] = {}
        index = self._missing.find(1)
        while index >= 0 and len(found) < most:
            found[self.names[index * NAME : (index + 1) * NAME].hex()] = None
            index = self._missing.find(1, index + 1)
        return list(found)

    def take(self, name: str, chunk: bytes) -> None:
        """Write a chunk where it belongs; raises FrameError where it is not what its name says."""
        places = self._places(name)
        if not places:
            return
        if len(chunk) != length(self.blob, places[0]) or chunk_name(chunk) != name:
            raise FrameError(f"chunk {name[:12]} arrived with other bytes than its name says")
        try:
            with self._path.open("r+b", buffering=0) as file:
                for index in places:
                    file.seek(index * CHUNK)
                    if file.write(chunk) != len(chunk):  # the rest would be said to be of no room at the next one
                        raise StoreError(f"{self._path} cannot be written: no room; free the disk")
        except OSError as error:
            raise _trouble(self._path, error) from None
        for index in places:
            self._missing[index] = 0

    def finish(self) -> None:
        """Check the whole and give it its name, synced; raises FrameError, and begins anew, where it is another.

        A manifest may lie. An only chunk has been checked, and has the blob's own name.
        """
        try:
            sound = self.blob.chunks == 1 or files.digest(self._path) == self.blob.digest
        except OSError as error:
            raise _trouble(self._path, error) from None
        if not sound:
            files.remove(self._path)
            raise FrameError(f"blob {self.blob.digest[:12]} arrived with other bytes than its name says")
        files.settle(self._path, self._folder / self.blob.digest)

    def _found(self) -> Iterator[str]:
        """The names of the chunks in the file."""
        return (chunk_name(chunk) for _, chunk in _chunks(self._path))

    def _blank(self) -> Iterator[str]:
        """What `_found` would yield of a file in which nothing has been written."""
        return (_zeros(length(self.blob, index)) for index in range(self.blob.chunks))

    def _places(self, name: str) -> list[int]:
        """Where the chunk of that name is missing."""
        found, wanted = [], bytes.fromhex(name)
        at = self.names.find(wanted)
        while at >= 0:
            if at % NAME == 0 and self._missing[at // NAME]:
                found.append(at // NAME)
            at = self.names.find(wanted, at + 1)
        return found

    def _borrow(self, path: Path) -> None:
        """Take over the chunks that another blob, whole or not, has as well."""
        if path == self._path:
            return
        for _, chunk in _chunks(path):
            self.take(chunk_name(chunk), chunk)


class Fetcher:
    """What a device downloads, one blob after the other; `fetch` is asked again and again until it says True."""

    def __init__(self, device: str, topics: Topics, bus: Bus, folder: Path, clock: Callable[[], float]) -> None:
        self._device = device
        self._topics = topics
        self._bus = bus
        self._folder = folder
        self._clock = clock
        self._download: Download | None = None
        self._asked: set[str] = set()
        self._stalls = 0
        self._due = 0.0

    def fetch(self, blob: Blob) -> bool:
        """Whether `blob` is on the disk; asks for what is missing of it. Raises StoreError, FrameError."""
        if here(self._folder, blob):
            return True
        if self._download is None or self._download.blob != blob:
            self.cancel()
            self._download = Download(blob, self._folder)
            self._progress()
            if not self._download.names:
                self._ask(self._topics.manifest(blob.digest))
        if self._download.names:
            return self._go_on(self._download)
        self._complain([blob.digest])
        return False

    def due(self) -> float:
        """When `fetch` has something to do though nothing arrives, by the clock."""
        return self._due if self._asked else 0.0

    def take(self, topic: str, payload: bytes) -> None:
        """Take what came on one of our topics; raises FrameError, StoreError."""
        download = self._download
        if download is None or topic not in self._asked or not payload:  # one that was cleared may be said again
            return
        kind, name = self._topics.named(topic)
        if kind == "blob":
            download.begin(open_manifest(download.blob, payload))
        else:
            download.take(name, payload)
        self._drop(topic)
        self._progress()

    def cancel(self) -> None:
        """Ask for nothing any more; what has come stays on the disk."""
        for topic in tuple(self._asked):
            self._drop(topic)
        self._download = None

    def _go_on(self, download: Download) -> bool:
        missing = download.wanted(WINDOW)
        if not missing:
            self.cancel()
            download.finish()
            return True
        for name in missing:
            self._ask(self._topics.chunk(name))
        self._complain(missing)
        return False

    def _ask(self, topic: str) -> None:
        if topic not in self._asked:
            self._asked.add(topic)
            self._bus.subscribe(topic)

    def _drop(self, topic: str) -> None:
        self._asked.discard(topic)
        self._bus.unsubscribe(topic)

    def _progress(self) -> None:
        self._stalls = 0
        self._due = self._clock() + STALL[0]

    def _complain(self, names: list[str]) -> None:
        """Tell the cloud what does not come: a broker that was killed may have forgotten what it retained."""
        if self._clock() < self._due:
            return
        self._bus.publish(self._topics.want(self._device), encode(Want(tuple(names))))
        self._stalls += 1
        jitter = 0.5 + draw("want", self._stalls, self._device)
        self._due = self._clock() + jitter * min(STALL[0] * 2**self._stalls, STALL[1])


def here(folder: Path, blob: Blob) -> Path | None:
    """Return the path of `blob` in `folder` if it is there whole."""
    path = folder / blob.digest
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return path if stat.S_ISREG(found.st_mode) and found.st_size == blob.size else None


@lru_cache(2)  # a blob has two lengths of chunks
def _zeros(size: int) -> str:
    return chunk_name(bytes(size))


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        index = 0
        while chunk := file.read(CHUNK):
            yield index, chunk
            index += 1


def _trouble(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be written: {error.strerror}; free the disk or check it")
