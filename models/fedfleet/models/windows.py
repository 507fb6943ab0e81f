"""What the windowed operations of a graph become: their attributes read, their axes laid out, the rest is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models import fixed
from fedfleet.models.conv import Axis, axis, conv2d, footprint, transposed
from fedfleet.models.depthwise import depthwise
from fedfleet.models.pool import max_pool, mean_pool
from fedfleet.models.shapes import cut, join, repeat
from fedfleet.models.trace import Node
from fedfleet.wire.errors import ModelError

Tensor = Any
CACHE = 1_200_000


def axes(node: Node, size: Sequence[int], kernel: Sequence[int]) -> tuple[Axis, Axis]:
    """The two spatial axes of a windowed op over an input [B,H,W,C] of `size`."""
    if node.attrs["data_format"] != b"NHWC" or node.attrs["padding"] not in {b"SAME", b"VALID"}:
        raise ModelError("only channels_last with padding 'same' or 'valid' is supported")
    same, strides = node.attrs["padding"] == b"SAME", node.attrs["strides"]
    dilations = node.attrs.get("dilations", [1, 1, 1, 1])
    rows, cols = (axis(int(size[i]), int(kernel[i - 1]), strides[i], dilations[i], same) for i in (1, 2))
    return rows, cols


def _conv(node: Node, x: Tensor, kernel: Tensor) -> Tensor:
    rows, cols = axes(node, x.shape, kernel.shape)
    groups = x.shape[3] // kernel.shape[2]
    if groups > 1:
        correlate = fixed.conv2d if isinstance(kernel, np.ndarray) else conv2d
        return join([correlate(a, b, rows, cols) for a, b in zip(_channels(x, groups), _channels(kernel, groups))], 3)
    if isinstance(kernel, np.ndarray):
        return fixed.conv2d(x, kernel, rows, cols)
    count = pieces(x.shape[0], footprint(x, kernel, rows, cols))
    if count == 1:
        return conv2d(x, kernel, rows, cols)
    parts = tf.split(x, count)
    return join([conv2d(part, kernel, rows, cols) for part in parts], 0)


def pieces(batch: int, size: int) -> int:
    """How many equal parts of a batch stay in a core's cache, where each example makes `size` bytes."""
    return next(n for n in range(1, batch + 1) if batch % n == 0 and (batch * size <= n * CACHE or n == batch))


def _channels(x: Tensor, groups: int) -> list[Tensor]:
    """The last axis of x in equal groups."""
    if isinstance(x, np.ndarray):
        return np.split(x, groups, axis=-1)
    *lead, depth = (int(n) for n in x.shape)
    each = depth // groups
    return [cut(x, [*[0] * len(lead), i * each], [*lead, each]) for i in range(groups)]


def _depthwise(node: Node, x: Tensor, kernel: Tensor) -> Tensor:
    """DepthwiseConv2dNative: with a multiplier, each channel is repeated and has several kernels."""
    high, wide, depth, multiplier = kernel.shape
    rows, cols = axes(node, x.shape, kernel.shape)
    if rows.stride != cols.stride or max(rows.dilation, cols.dilation) > 1:
        raise ModelError("a depthwise convolution has one stride and no dilation of its own; use DepthwiseConv2D")
    if isinstance(kernel, np.ndarray):
        return fixed.depthwise(repeat(x, 3, multiplier), kernel.reshape(high, wide, depth * multiplier), rows, cols)
    kernels = tf.reshape(kernel, [high, wide, depth * multiplier])
    return depthwise(repeat(x, 3, multiplier), kernels, rows, cols, repeated=multiplier > 1)


def _transposed(node: Node, size: Any, kernel: Tensor, x: Tensor) -> Tensor:
    """Conv2DBackpropInput: `size` is that of its output."""
    rows, cols = axes(node, [int(n) for n in np.asarray(size)], kernel.shape)
    return transposed(x, kernel, rows, cols)


def _max_pool(node: Node, x: Tensor) -> Tensor:
    return max_pool(x, *axes(node, x.shape, node.attrs["ksize"][1:3]))


def _mean_pool(node: Node, x: Tensor) -> Tensor:
    return mean_pool(x, *axes(node, x.shape, node.attrs["ksize"][1:3]))


WINDOWS: Mapping[str, Callable[..., Tensor]] = {
    "AvgPool": _mean_pool,
    "Conv2D": _conv,
    "Conv2DBackpropInput": _transposed,
    "DepthwiseConv2dNative": _depthwise,
    "MaxPool": _max_pool,
}
