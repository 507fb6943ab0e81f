"""One file of examples: a header that says what they look like, and then records of one fixed size, each checked.

`magic | version | length | JSON | CRC-32` and then `x | y | CRC-32` again and again, all little endian. The JSON gives
the segment's number and the shapes. A record's checksum starts from the one of its segment's header, so neither zeros
that a power cut left behind nor a block of another segment pass as an example.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.examples import Examples

MAGIC, VERSION = b"FFEX", 1
LEAD = struct.Struct("<4sHH")
CHECKSUM = struct.Struct("<I")
MAX_JSON = 4096
MAX_VALUES = 2**24


class Schema(NamedTuple):
    """What one example looks like: shape of x, and shape of its float32 targets or None for an int32 label."""

    x: tuple[int, ...]
    y: tuple[int, ...] | None

    def __str__(self) -> str:
        y = "a label" if self.y is None else f"targets {list(self.y)}"
        return f"x {list(self.x)} with {y}"

    @property
    def record(self) -> np.dtype[np.void]:
        """The layout of one record, checksum last."""
        y = ("y", "<i4") if self.y is None else ("y", "<f4", self.y)
        return np.dtype([("x", "<f4", self.x), y, ("crc", "<u4")])


class Segment(NamedTuple):
    """One file: its header's length and checksum, and its `size` bytes, of which `rows` whole records are a part."""

    path: Path
    schema: Schema
    start: int
    seed: int
    size: int
    rows: int

    def records(self) -> npt.NDArray[np.void]:
        """The records where they lie: a read-only map of the file."""
        if self.rows == 0:
            return np.empty(0, self.schema.record)
        return np.asarray(np.memmap(self.path, self.schema.record, "r", self.start, (self.rows,)))

    def whole(self) -> npt.NDArray[np.bool_]:
        """Which of the records have the checksum they should have."""
        records = self.records()
        whole: npt.NDArray[np.bool_] = records["crc"] == np.array(checksums(records, self.seed), np.uint32)
        return whole


def header(schema: Schema, number: int) -> bytes:
    """The bytes a segment starts with, a multiple of 64 long so that records lie on 4-byte borders."""
    text = json.dumps({"segment": number, "x": schema.x, "y": schema.y}).encode()
    text += b" " * (-(LEAD.size + len(text) + CHECKSUM.size) % 64)
    lead = LEAD.pack(MAGIC, VERSION, len(text)) + text
    return lead + CHECKSUM.pack(zlib.crc32(lead))


def inspect(path: Path) -> Segment | None:
    """A file's header, records unchecked; None if it is damaged, StoreError if a newer version wrote it."""
    with path.open("rb") as file:
        head = file.read(LEAD.size + MAX_JSON + CHECKSUM.size)
        size = file.seek(0, os.SEEK_END)
    if len(head) < LEAD.size:
        return None
    magic, version, length = LEAD.unpack_from(head)
    end = LEAD.size + length
    if magic != MAGIC or len(head) < end + CHECKSUM.size:
        return None
    (crc,) = CHECKSUM.unpack_from(head, end)
    if crc != zlib.crc32(head[:end]):
        return None
    if version != VERSION:
        raise StoreError(f"{path} is of version {version}, but {VERSION} is known here: update fedfleet")
    number, schema = _fields(head[LEAD.size : end])
    if number != int(path.stem):
        return None
    start = end + CHECKSUM.size
    return Segment(path, schema, start, crc, size, (size - start) // schema.record.itemsize)


def _fields(text: bytes) -> tuple[int, Schema]:
    """The segment's number and schema in its JSON, whose checksum has vouched that `header` made it."""
    fields = json.loads(text)
    return fields["segment"], Schema(tuple(fields["x"]), None if fields["y"] is None else tuple(fields["y"]))


def checksums(records: npt.NDArray[np.void], seed: int = 0) -> list[int]:
    """The CRC-32 of each record but its last four bytes, which must be that, started from the segment's own."""
    size = records.dtype.itemsize
    raw = memoryview(records.view(np.uint8))  # type: ignore[arg-type]
    return [zlib.crc32(raw[at : at + size - CHECKSUM.size], seed) for at in range(0, len(raw), size)]


def _encode(schema: Schema, examples: Examples, seed: int) -> bytes:
    """Examples as the records of the segment whose header has checksum `seed`."""
    records = np.zeros(len(examples.y), schema.record)
    records["x"], records["y"] = examples
    records["crc"] = checksums(records, seed)
    return records.tobytes()


def create(path: Path, schema: Schema, examples: Examples) -> Segment:
    """A new segment with its first examples, on disk as a whole or not at all."""
    head = header(schema, int(path.stem))
    (seed,) = CHECKSUM.unpack(head[-CHECKSUM.size :])
    raw = head + _encode(schema, examples, seed)
    files.write(path, raw)
    return Segment(path, schema, len(head), seed, len(raw), len(examples.y))


def extend(segment: Segment, examples: Examples) -> Segment:
    """The segment with more examples, on disk when this returns; on an error it is as long as before.

    Its time stamp stays that of its beginning.
    """
    raw = _encode(segment.schema, examples, segment.seed)
    with segment.path.open("r+b", buffering=0) as file:
        begun = os.fstat(file.fileno()).st_mtime_ns
        file.seek(segment.size)
        try:
            rest = memoryview(raw)
            while rest:
                rest = rest[file.write(rest) :]
            os.utime(file.fileno(), ns=(begun, begun))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(segment.size)
            raise
    return segment._replace(size=segment.size + len(raw), rows=segment.rows + len(examples.y))
