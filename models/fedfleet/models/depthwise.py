"""Depthwise convolution with run-time weights: DEPTHWISE_CONV_2D forward, back, and with stride 1 for the kernel too.

The gradient by the kernel is the input filtered by the output's gradient, example by example: as more channels of one
image. With other strides each tap's is a sum over its slice times that gradient, summed by mean-pooling, as that runs
at full speed. All tensors are NHWC.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.conv import Axis, dilate, pad, positions
from fedfleet.models.gradient import custom_gradient

Tensor = Any


def depthwise(x: Tensor, kernel: Tensor, rows: Axis, cols: Axis, repeated: bool = False) -> Tensor:
    """Correlation of each channel of x [B,H,W,C] with its own kernel [h,w,C] -> [B,H',W',C]; one stride.

    `repeated` says that x repeats its channels: TensorFlow 2.21's converter breaks such a graph with transpositions.
    """

    @custom_gradient
    def apply(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        full = pad(x, rows, cols)

        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            sums = _by_images(x, g, rows, cols) if rows.stride == 1 and not repeated else _by_taps(full, g, rows, cols)
            taps = tf.reshape(kernel, [rows.kernel * cols.kernel, -1])
            flipped = tf.concat([taps[i : i + 1] for i in range(taps.shape[0])][::-1], 0)
            wide = dilate(g, rows, cols)
            return _filter(wide, tf.reshape(flipped, kernel.shape)), tf.reshape(sums, kernel.shape)

        return _filter(full, kernel, rows.stride), gradient

    return apply(x, kernel)


def _filter(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    return tf.nn.depthwise_conv2d(x, tf.reshape(kernel, [*kernel.shape, 1]), [1, stride, stride, 1], "VALID")


def _by_images(x: Tensor, g: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """The kernel's gradient [h,w,C] from the input and g [B,H',W',C]."""
    batch, *_, depth = g.shape
    # at rank 3, as TensorFlow 2.21's converter swaps a transposition with a padding of its rank, and breaks its graph
    flat = (tf.transpose(tf.reshape(t, [batch, -1, depth]), [1, 0, 2]) for t in (x, g))
    image, kernel = (tf.reshape(t, [*like.shape[1:3], batch * depth]) for t, like in zip(flat, (x, g)))
    each = _filter(pad(image[None], rows, cols), kernel)
    return tf.reduce_sum(tf.reshape(each, [*each.shape[1:3], batch, depth]), 2)


def _by_taps(full: Tensor, g: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """The same [h*w,C] for any stride."""
    means = [tf.nn.avg_pool2d(part * g, g.shape[1:3], 1, "VALID") for part in positions(full, rows, cols)]
    joined = tf.concat([tf.reshape(mean, [g.shape[0], 1, g.shape[3]]) for mean in means], 1)
    return tf.reduce_sum(joined, 0) * float(rows.out * cols.out)
