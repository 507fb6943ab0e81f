"""Products and convolutions whose kernel is a constant: frozen layers. Gradients go to the input alone.

With a constant kernel XNNPACK takes CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, several times faster than the
products over slices that run-time kernels need (see conv.py). All tensors are NHWC, kernels are NumPy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fedfleet.models.conv import Axis, dilate
from fedfleet.models.gradient import custom_gradient

Tensor = Any
Kernel = npt.NDArray[Any]


def conv2d(x: Tensor, kernel: Kernel, rows: Axis, cols: Axis) -> Tensor:
    """Correlation of x [B,H,W,I] with kernel [h,w,I,O] -> [B,H',W',O]."""
    flipped = np.ascontiguousarray(kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    gaps = [rows.dilation, cols.dilation]

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> Tensor:
            return tf.nn.conv2d(dilate(g, rows, cols), flipped, 1, "VALID", dilations=gaps)

        return tf.nn.conv2d(x, kernel, [rows.stride, cols.stride], _padding(rows, cols), dilations=gaps), gradient

    return apply(x)


def depthwise(x: Tensor, kernel: Kernel, rows: Axis, cols: Axis) -> Tensor:
    """Correlation of each channel of x [B,H,W,C] with its own kernel [h,w,C] -> [B,H',W',C]; one stride."""
    flipped = np.ascontiguousarray(kernel[::-1, ::-1, :, None])
    steps = [1, rows.stride, cols.stride, 1]

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> Tensor:
            return tf.nn.depthwise_conv2d(dilate(g, rows, cols), flipped, [1, 1, 1, 1], "VALID")

        return tf.nn.depthwise_conv2d(x, kernel[..., None], steps, _padding(rows, cols)), gradient

    return apply(x)


def product(x: Tensor, kernel: Kernel) -> Tensor:
    """The matrix product of x [B,I] and kernel [I,O]."""
    back = np.ascontiguousarray(kernel.T)

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        return tf.matmul(x, kernel), lambda g: tf.matmul(g, back)

    return apply(x)


def _padding(rows: Axis, cols: Axis) -> str:
    """TensorFlow's word for the axes; where nothing is padded, both of its words mean the same."""
    return "SAME" if rows.before or rows.after or cols.before or cols.after else "VALID"
