"""`int8` and `int4`: whole multiples of a step that 256 values share, rounded at random so that the mean stays right.

The steps come first, two bytes a block, m and s for a step of m * 2^(s-30); then the codes, two's complement, int4 two
to a byte, the first in the low half. A code times its step is exact in float32, and a multiple of 2^-30, the unit in
which the cloud sums. Rounded up with the probability of the rest (QSGD; Alistarh et al. 2017, section 3.1), by integers
drawn from PCG64's raw words: the same bits on every platform.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedfleet.wire.codecs.coding import Coding, Weights
from fedfleet.wire.errors import FrameError

BLOCK = 256
SLAB = 64 * BLOCK  # values worked on at a time, so that a board needs little more memory than the result takes
UNIT = 30
LARGEST_SHIFT = 54  # steps from there on are for changes of 2^32 and more, which no sum takes


def blocks(bits: int) -> Coding:
    """Return the coding as integers of 8 or 4 bits."""
    most = 2 ** (bits - 1) - 1

    def size(count: int) -> int:
        return 2 * -(-count // BLOCK) + -(-count * bits // 8)

    def shrink(values: Weights, random: np.random.PCG64) -> bytes:
        steps, codes = [], []
        for start in range(0, values.size, SLAB):
            rows = _rows(values[start : start + SLAB])
            step = _steps(np.abs(rows).max(axis=1), most)
            steps.append(step.tobytes())
            codes.append(_rounded(rows, _widths(step), most, random))
        return b"".join(steps) + _packed(np.concatenate(codes)[: values.size], bits)

    def grow(data: bytes, count: int) -> Weights:
        rows = -(-count // BLOCK)
        step = np.frombuffer(data, np.uint8, 2 * rows).reshape(rows, 2)
        if step[:, 1].max(initial=0) > LARGEST_SHIFT:
            raise FrameError(f"a block's step is 2^{step[:, 1].max() - UNIT} and more: no update moves that far")
        values = _unpacked(data[2 * rows :], bits, count).astype(np.float32)
        values *= np.repeat(_widths(step).astype(np.float32), BLOCK)[:count]
        return values

    return Coding(size, shrink, grow)


def _rows(values: Weights) -> NDArray[np.float64]:
    """The values in rows of a block each, float64[rows, BLOCK], the last one filled up with zeros."""
    rows = np.zeros((-(-values.size // BLOCK), BLOCK))
    rows.reshape(-1)[: values.size] = values
    return rows


def _steps(peaks: NDArray[np.float64], most: int) -> NDArray[np.uint8]:
    """The smallest steps that reach the peaks in `most` of them, uint8[rows, 2]: m and s."""
    units = np.ceil(peaks * 2.0**UNIT / most)
    shift = np.maximum(np.frexp(units)[1] - 8, 0)
    mantissa = np.ceil(np.ldexp(units, -shift))
    over = mantissa == 256
    return np.stack([np.where(over, 128, mantissa), shift + over], axis=1).astype(np.uint8)


def _widths(steps: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The steps as numbers, float64[rows]."""
    return np.ldexp(steps[:, 0].astype(np.float64), steps[:, 1].astype(np.int32) - UNIT)


def _rounded(
    rows: NDArray[np.float64], widths: NDArray[np.float64], most: int, random: np.random.PCG64
) -> NDArray[np.int8]:
    """The codes of the rows, int8[rows * BLOCK]; a draw of 32 bits each, so that whole multiples stay what they are."""
    drawn = (random.random_raw(rows.size) >> np.uint64(32)).astype(np.float64).reshape(rows.shape)
    codes = np.floor(rows / np.where(widths > 0, widths, 1)[:, None] + drawn * 2.0**-32)
    return np.clip(codes, -most, most).astype(np.int8).reshape(-1)


def _packed(codes: NDArray[np.int8], bits: int) -> bytes:
    if bits == 8:
        return codes.tobytes()
    halves = (codes & 15).astype(np.uint8)
    packed = halves[::2].copy()
    packed[: codes.size // 2] |= halves[1::2] << 4
    return packed.tobytes()


def _unpacked(data: bytes, bits: int, count: int) -> NDArray[np.int8]:
    if bits == 8:
        return np.frombuffer(data, np.int8, count)
    packed = np.frombuffer(data, np.uint8)
    codes = np.empty(2 * packed.size, np.uint8)
    codes[::2], codes[1::2] = packed & 15, packed >> 4
    if codes[count:].any():
        raise FrameError("the half byte behind the last code is not 0")
    return (codes[:count].view(np.int8) ^ np.int8(8)) - np.int8(8)
