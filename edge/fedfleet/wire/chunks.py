"""Blobs and updates in chunks of 64 KiB: cut on one side, put together and checked on the other.

A chunk of a blob is retained under its own name, so that blobs with equal chunks share them. A part of an update goes
to one receiver only, and has a number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from fedfleet.wire import frames
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import CHUNK, MAX_ROUND, Blob, Update, open_header, require_report
from fedfleet.wire.record import Mismatch, plain, require
from fedfleet.wire.topics import CHUNK_NAME, DIGEST

NAME = 16  # bytes of a chunk's sha256 that name it; with these a manifest of 256 MiB fits into one chunk itself
MAX_WANT = 64


@dataclass(frozen=True)
class Offer:
    """An update that a device holds: what it is, and which blob carries it; the cloud asks for its parts."""

    round: int
    examples: int
    codec: str
    blob: Blob
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_report(self.round, self.examples, self.metrics)


@dataclass(frozen=True)
class Part:
    """The header of one part of an update; the part's bytes are the frame's body."""

    round: int
    digest: str
    index: int

    def __post_init__(self) -> None:
        require(1 <= self.round <= MAX_ROUND, "round must be at least 1")
        require(DIGEST.fullmatch(self.digest) is not None, "digest must be 64 hexadecimal digits")


@dataclass(frozen=True)
class Manifest:
    """The header of a list of chunks; their names, 16 bytes each, are the frame's body."""

    blob: Blob


@dataclass(frozen=True)
class Want:
    """What a device waits for in vain: names of chunks, or digests of blobs whose manifest it lacks."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        require(0 < len(self.names) <= MAX_WANT, f"a device may want 1 to {MAX_WANT} things at a time")
        good = all(CHUNK_NAME.fullmatch(name) or DIGEST.fullmatch(name) for name in self.names)
        require(good, "a name must be that of a chunk or of a blob")


def cut(data: bytes) -> list[bytes]:
    """Return `data` in chunks of 64 KiB, the last one shorter."""
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


def chunk_name(chunk: bytes | memoryview) -> str:
    """Return the name of a chunk: the first 32 digits of its sha256."""
    return hashlib.sha256(chunk).hexdigest()[: 2 * NAME]


def only_name(blob: Blob) -> str:
    """Return the name of the only chunk of `blob`, which is the beginning of its own."""
    return blob.digest[: 2 * NAME]


def length(blob: Blob, index: int) -> int:
    """Return how many bytes chunk `index` of `blob` has; raises FrameError for one that it does not have."""
    if not 0 <= index < blob.chunks:
        raise FrameError(f"chunk {index} of a blob with {blob.chunks}")
    return min(CHUNK, blob.size - index * CHUNK)


def manifest(blob: Blob, names: list[str]) -> bytes:
    """Return the frame that lists the chunks of `blob`."""
    return frames.pack({"kind": "manifest", "blob": plain(blob)}, bytes.fromhex("".join(names)))


def open_manifest(blob: Blob, frame: bytes) -> bytes:
    """Return the names of the chunks of `blob`, 16 bytes each; raises FrameError where the frame is not of it."""
    header, body = frames.unpack(frame)
    if open_header(Manifest, header).blob != blob or len(body) != NAME * blob.chunks:
        raise FrameError(f"the manifest of blob {blob.digest[:12]} does not fit it")
    return body


def offer(update: Update) -> Offer:
    """Return what is said of `update` before any of its parts is sent."""
    return Offer(update.round, update.examples, update.codec, update.blob, update.metrics)


def pack_offer(offered: Offer) -> bytes:
    """Return the frame of an offer."""
    return frames.pack({"kind": "offer", **plain(offered)})


def pack_part(offered: Offer, index: int, body: bytes) -> bytes:
    """Return the frame of one part of what was offered."""
    return frames.pack({"kind": "part", **plain(Part(offered.round, offered.blob.digest, index))}, body)


def open_offer(frame: bytes) -> Offer:
    """Return the offer in `frame`; raises FrameError."""
    return _offered(*frames.unpack(frame))


def open_part(frame: bytes) -> tuple[Part, bytes]:
    """Return header and bytes of one part; raises FrameError."""
    header, body = frames.unpack(frame)
    return open_header(Part, header), body


def open_either(frame: bytes) -> Offer | tuple[Part, bytes]:
    """Return what is in `frame`, an offer, or header and bytes of one part; raises FrameError."""
    header, body = frames.unpack(frame)
    return (open_header(Part, header), body) if header.get("kind") == "part" else _offered(header, body)


def split(update: Update) -> list[bytes]:
    """Return the frames that carry `update` where nobody has to be asked: the offer, then all parts."""
    offered = offer(update)
    return [pack_offer(offered), *(pack_part(offered, i, body) for i, body in enumerate(cut(update.delta)))]


def join(device: str, offered: Offer, delta: bytes) -> Update:
    """Return the update of `device` that was offered; `delta` has been checked against the blob that the offer names.

    Raises FrameError where its fields are out of range.
    """
    try:
        update = Update(offered.round, device, offered.examples, offered.codec, delta, offered.metrics)
    except Mismatch as error:
        raise FrameError(f"update: {error}") from None
    vars(update)["blob"] = offered.blob  # so that nobody hashes it again
    return update


def _offered(header: dict[str, Any], body: bytes) -> Offer:
    if body:
        raise FrameError("an offer has no body")
    return open_header(Offer, header)


class Assembly:
    """A blob that arrives in chunks, in any order, some of them twice."""

    def __init__(self, blob: Blob) -> None:
        """Room for `blob`; the caller has checked that its size is one it expects."""
        self.blob = blob
        self._data = bytearray(blob.size)
        self._wanted = set(range(blob.chunks))

    def add(self, index: int, chunk: bytes) -> None:
        """Put one chunk in its place; raises FrameError for an index or a length that cannot be."""
        if len(chunk) != length(self.blob, index):
            raise FrameError(f"chunk {index} has {len(chunk)} bytes, not {length(self.blob, index)}")
        if index in self._wanted:
            self._data[index * CHUNK : index * CHUNK + len(chunk)] = chunk
            self._wanted.discard(index)

    def missing(self) -> tuple[int, ...]:
        """Indices that have not arrived, in order."""
        return tuple(sorted(self._wanted))

    def finish(self) -> bytes:
        """Return the whole blob; raises FrameError, and wants all chunks again, where it is not what its name says."""
        data = bytes(self._data)
        if hashlib.sha256(data).hexdigest() != self.blob.digest:
            self._wanted = set(range(self.blob.chunks))
            raise FrameError(f"blob {self.blob.digest[:12]} arrived with other bytes than its name says")
        return data
