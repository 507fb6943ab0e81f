"""Depthwise convolution as products and sums over shifted slices: elementwise work, which LiteRT runs at full speed.

DEPTHWISE_CONV_2D would take run-time weights only on its slow path, and it has no gradient by its kernel.
All tensors are NHWC.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.conv import Axis, dilate, pad, positions, unit
from fedfleet.models.gradient import custom_gradient

Tensor = Any


def depthwise(x: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Correlation of each channel of x [B,H,W,C] with its own kernel [h,w,C] -> [B,H',W',C]."""

    @custom_gradient
    def apply(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        slices = positions(pad(x, rows, cols), rows, cols)
        taps = [kernel[i : i + 1, j : j + 1] for i in range(rows.kernel) for j in range(cols.kernel)]

        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            sums = [tf.reduce_sum(tf.reshape(part * g, [-1, g.shape[3]]), 0) for part in slices]
            wide = positions(dilate(g, rows, cols), unit(rows), unit(cols))
            return _weighted(wide, taps[::-1]), tf.reshape(tf.concat(sums, 0), kernel.shape)

        return _weighted(slices, taps), gradient

    return apply(x, kernel)


def _weighted(slices: list[Tensor], taps: list[Tensor]) -> Tensor:
    """The sum of all slices [B,H',W',C], each times its tap [1,1,C]."""
    parts = [part * tap for part, tap in zip(slices, taps)]
    return sum(parts[1:], parts[0])
