"""Encoded updates as whole numbers of 2^-30, in TensorFlow: what NumPy makes of what `grow` returns, exactly.

All are decoded by integers, or by floats that hold every value on the way; so XLA may fuse them as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fedfleet.cloud.sums import SCALE_BITS
from fedfleet.wire.codecs.blocks import BLOCK

Tensor = Any


def _floats(count: int, values: Tensor) -> Tensor:
    """Rounded to the nearest, halves to the even one, as np.rint."""
    exact = tf.cast(values, tf.float32) if values.dtype == tf.float16 else values
    return tf.cast(tf.round(exact * 2.0**SCALE_BITS), tf.int64)


def _int8(count: int, codes: Tensor, steps: Tensor) -> Tensor:
    return tf.cast(codes, tf.int64) * tf.repeat(steps, BLOCK)[:count]


def _int4(count: int, packed: Tensor, steps: Tensor) -> Tensor:
    """Two to a byte, the first in the low half, two's complement."""
    wide = tf.cast(packed, tf.int32)
    halves = tf.reshape(tf.stack([wide % 16, wide // 16], 1), [-1])[:count]
    return _int8(count, halves - 16 * tf.cast(halves >= 8, tf.int32), steps)


UNITS: dict[str, Callable[..., Tensor]] = {"floats": _floats, "int8": _int8, "int4": _int4}
