"""Updates as replicas are given them: arrays as narrow as they came off the wire, once they have been looked through.

What `grow` would refuse, and what it has to undo first (`topk`, `zlib`), is not looked into here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.sums import Vector
from fedfleet.wire.codecs.blocks import BLOCK, LARGEST_SHIFT, UNIT

INFINITE = 0x7C00  # the bits of float16's infinity; those of NaN are above
NIBBLES = np.maximum(np.abs((np.arange(256) & 15 ^ 8) - 8), np.abs((np.arange(256) >> 4 ^ 8) - 8)).astype(np.uint8)


class Held(NamedTuple):
    """The arrays of one update and how they are read, by a name: `floats`, `int8` or `int4`."""

    kind: str
    arrays: tuple[NDArray[Any], ...]

    @property
    def like(self) -> tuple[str, str]:
        """What updates that are folded together have in common."""
        return self.kind, str(self.arrays[0].dtype)


class Looked(NamedTuple):
    """An update with its largest change, which is finite."""

    held: Held
    peak: float


def values(delta: Vector) -> Held:
    """Return what holds `delta`, by a copy unless nobody can write to it."""
    return Held("floats", (delta.copy() if delta.flags.writeable else delta,))


def look(codec: str, data: bytes, count: int) -> Looked | None:
    """Return what `data` holds, the values not yet decoded; None for what only `grow` can decode, or will refuse."""
    return LOOKS[codec](data, count) if codec in LOOKS else None


def _float32(data: bytes, count: int) -> Looked | None:
    if len(data) != 4 * count:
        return None
    found = np.frombuffer(data, "<f4")
    peak = max(float(np.max(found, initial=0.0)), -float(np.min(found, initial=0.0)))
    return Looked(Held("floats", (found,)), peak) if np.isfinite(peak) else None


def _float16(data: bytes, count: int) -> Looked | None:
    """The bits of positive numbers are in the numbers' own order."""
    if len(data) != 2 * count:
        return None
    top = np.max(np.frombuffer(data, "<u2") & np.uint16(0x7FFF), initial=np.uint16(0))
    if top >= INFINITE:
        return None
    return Looked(Held("floats", (np.frombuffer(data, "<f2"),)), float(top.view(np.float16)))


def _int8(data: bytes, count: int) -> Looked | None:
    codes = np.frombuffer(data, np.int8, offset=min(2 * _rows(count), len(data)))
    if len(codes) != count or not count:
        return None
    starts = np.arange(0, count, BLOCK)
    tops = np.maximum(np.maximum.reduceat(codes, starts), -np.minimum.reduceat(codes, starts).astype(np.int16))
    return _blocks("int8", data, codes, tops)


def _int4(data: bytes, count: int) -> Looked | None:
    packed = np.frombuffer(data, np.uint8, offset=min(2 * _rows(count), len(data)))
    if len(packed) != -(-count // 2) or not count or (count % 2 and packed[-1] >> 4):
        return None
    tops = np.maximum.reduceat(NIBBLES[packed], np.arange(0, len(packed), BLOCK // 2))
    return _blocks("int4", data, packed, tops)


def _blocks(kind: str, data: bytes, codes: NDArray[Any], tops: NDArray[Any]) -> Looked | None:
    """What blocks hold whose largest codes are `tops`: the codes, and the steps in units of 2^-30, int64[rows]."""
    step = np.frombuffer(data, np.uint8, 2 * len(tops)).reshape(-1, 2)
    if step[:, 1].max() > LARGEST_SHIFT:
        return None
    steps = step[:, 0].astype(np.int64) << step[:, 1].astype(np.int64)
    peak = float(np.max(tops * steps.astype(np.float64))) / 2.0**UNIT
    return Looked(Held(kind, (codes, steps)), peak)


def _rows(count: int) -> int:
    return -(-count // BLOCK)


LOOKS: dict[str, Callable[[bytes, int], Looked | None]] = {
    "float32": _float32,
    "float16": _float16,
    "int8": _int8,
    "int4": _int4,
}
