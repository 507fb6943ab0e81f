"""Depthwise convolution with run-time weights: DEPTHWISE_CONV_2D forward and back, elementwise for the kernel.

LiteRT has no gradient of a depthwise convolution by its kernel: each tap's is a sum over its slice times the output's
gradient. Summed by mean-pooling, as that runs at full speed. All tensors are NHWC.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.conv import Axis, dilate, pad, positions
from fedfleet.models.gradient import custom_gradient

Tensor = Any


def depthwise(x: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Correlation of each channel of x [B,H,W,C] with its own kernel [h,w,C] -> [B,H',W',C]; one stride."""

    @custom_gradient
    def apply(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        full = pad(x, rows, cols)

        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            sums = [_sum(part * g) for part in positions(full, rows, cols)]
            taps = tf.reshape(kernel, [rows.kernel * cols.kernel, -1])
            flipped = tf.concat([taps[i : i + 1] for i in range(taps.shape[0])][::-1], 0)
            wide = dilate(g, rows, cols)
            return _filter(wide, tf.reshape(flipped, kernel.shape)), tf.reshape(tf.concat(sums, 0), kernel.shape)

        return _filter(full, kernel, rows.stride), gradient

    return apply(x, kernel)


def _filter(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    return tf.nn.depthwise_conv2d(x, tf.reshape(kernel, [*kernel.shape, 1]), [1, stride, stride, 1], "VALID")


def _sum(x: Tensor) -> Tensor:
    """The sum of x [B,H,W,C] over all but the last axis: [C]."""
    batch, high, wide, depth = x.shape
    means = tf.nn.avg_pool2d(tf.reshape(x, [1, batch * high, wide, depth]), [batch * high, wide], 1, "VALID")
    return tf.reshape(means * float(batch * high * wide), [depth])
