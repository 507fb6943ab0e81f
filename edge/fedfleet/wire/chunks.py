"""Blobs and updates in chunks of 64 KiB: cut on one side, put together and checked on the other."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field

from fedfleet.wire import frames
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import CHUNK, Blob, Update, open_header
from fedfleet.wire.record import Mismatch


@dataclass(frozen=True)
class Part:
    """The header of one part of an update; the part's bytes are the frame's body."""

    round: int
    examples: int
    codec: str
    blob: Blob
    index: int
    metrics: dict[str, float] = field(default_factory=dict)


def cut(data: bytes) -> list[bytes]:
    """Return `data` in chunks of 64 KiB, the last one shorter."""
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


def split(update: Update) -> list[bytes]:
    """Return the frames that carry `update`, one a part."""
    blob = Blob.of(update.delta)
    header = {"round": update.round, "examples": update.examples, "codec": update.codec, "metrics": update.metrics}
    common = {"kind": "part", "blob": asdict(blob), **header}
    return [frames.pack({**common, "index": i}, body) for i, body in enumerate(cut(update.delta))]


def open_part(frame: bytes) -> tuple[Part, bytes]:
    """Return header and bytes of one part; raises FrameError."""
    header, body = frames.unpack(frame)
    return open_header(Part, header), body


def join(device: str, part: Part, delta: bytes) -> Update:
    """Return the update of `device` whose last part was `part`; raises FrameError where its fields are out of range."""
    try:
        return Update(part.round, device, part.examples, part.codec, delta, part.metrics)
    except Mismatch as error:
        raise FrameError(f"update: {error}") from None


class Assembly:
    """A blob that arrives in chunks, in any order, some of them twice."""

    def __init__(self, blob: Blob) -> None:
        """Room for `blob`; the caller has checked that its size is one it expects."""
        self.blob = blob
        self._data = bytearray(blob.size)
        self._wanted = set(range(blob.chunks))

    def add(self, index: int, chunk: bytes) -> None:
        """Put one chunk in its place; raises FrameError for an index or a length that cannot be."""
        start = index * CHUNK
        if not 0 <= index < self.blob.chunks:
            raise FrameError(f"chunk {index} of a blob with {self.blob.chunks}")
        if len(chunk) != min(CHUNK, self.blob.size - start):
            raise FrameError(f"chunk {index} has {len(chunk)} bytes, not {min(CHUNK, self.blob.size - start)}")
        if index in self._wanted:
            self._data[start : start + len(chunk)] = chunk
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
