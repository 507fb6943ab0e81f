"""The operations that rules are written in, by TensorFlow: the same bits as NumPy's, on any device."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.cloud.rules.ops import Ops

Tensor = Any


def _total(values: Tensor, axis: int) -> Tensor:
    while (size := values.shape[axis]) > 1:
        half = (size + 1) // 2
        left, odd, right = tf.split(values, [size - half, 2 * half - size, size - half], axis)
        values = tf.concat([left + right, odd], axis)
    return tf.squeeze(values, axis)


def _apart(block: Tensor) -> Tensor:
    wide = tf.cast(block, tf.float64)

    def one(row: Tensor) -> Tensor:
        away = wide - row
        return _total(away * away, 1)

    return tf.map_fn(one, wide)


def _along(values: Tensor, index: Tensor) -> Tensor:
    return tf.transpose(tf.gather(tf.transpose(values), tf.transpose(index), batch_dims=1))


OPS = Ops(
    wide=lambda values: tf.cast(values, tf.float64),
    sort=lambda values: tf.sort(values, axis=0),
    order=lambda values: tf.argsort(values, axis=0, stable=True),
    rows=tf.gather,
    along=_along,
    total=_total,
    apart=_apart,
)
