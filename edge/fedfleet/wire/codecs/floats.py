"""`float32` and `float16`: every value by itself, little-endian, rounded to the nearest."""

from __future__ import annotations

import numpy as np

from fedfleet.wire.codecs.coding import Coding, Weights


def floats(dtype: str) -> Coding:
    """Return the coding as numbers of `dtype`, `<f4` or `<f2`; what is too large for the latter becomes its largest."""
    largest = np.float32(np.finfo("<f2").max)

    def shrink(values: Weights, random: np.random.PCG64) -> bytes:
        held = values if dtype == "<f4" else np.clip(values, -largest, largest)
        return held.astype(dtype, copy=False).tobytes()

    def grow(data: bytes, count: int) -> Weights:
        return np.frombuffer(data, dtype, count).astype(np.float32, copy=False)

    return Coding(lambda count: count * np.dtype(dtype).itemsize, shrink, grow)
