"""Operations that move numbers and leave them as they are: reshape, transpose, join, cut, pad and repeat.

TensorFlow's gradients of slices and joins are no LiteRT builtins, or hide sizes behind run-time shapes; these are cut
and padded with the sizes known while compiling. Everything is done at rank 3 or less where that is possible: LiteRT
slows down or gives up at rank 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.trace import Node
from fedfleet.wire.errors import ModelError

Tensor = Any
Margins = Sequence[tuple[int, int]]


def join(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors one after another along `axis`."""

    @custom_gradient
    def apply(*parts: Tensor) -> tuple[Tensor, Any]:
        sizes = [part.shape[axis] for part in parts]
        return tf.concat(parts, axis), lambda g: tf.split(g, sizes, axis)

    return apply(*tensors)


def pad(x: Tensor, margins: Margins) -> Tensor:
    """x with as many zeros before and after along each axis."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        return tf.pad(x, margins), lambda g: tf.slice(g, [before for before, _ in margins], x.shape)

    return apply(x) if any(map(any, margins)) else x


def cut(x: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """The block of `sizes` that begins at `starts`."""
    ends = [(start, whole - start - size) for start, size, whole in zip(starts, sizes, x.shape)]

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        return tf.slice(x, starts, sizes), lambda g: tf.pad(g, ends)

    return apply(x)


def repeat(x: Tensor, axis: int, times: int) -> Tensor:
    """Every position along `axis` `times` times, one copy beside the other."""
    return _copies(x, int(np.prod(x.shape[: axis + 1])), axis, times)


def tile(x: Tensor, axis: int, times: int) -> Tensor:
    """The whole axis `times` times, one after the other."""
    return _copies(x, int(np.prod(x.shape[:axis])), axis, times)


def _copies(x: Tensor, rows: int, axis: int, times: int) -> Tensor:
    """x as a matrix of `rows` rows, each of them `times` times; the result is that much longer along `axis`."""
    shape = [size * times if i == axis else size for i, size in enumerate(x.shape)]

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        flat = tf.reshape(x, [rows, -1])

        def gradient(g: Tensor) -> Tensor:
            return tf.reshape(tf.reduce_sum(tf.reshape(g, [rows, times, -1]), 1), x.shape)

        return tf.reshape(tf.concat([flat] * times, 1), shape), gradient

    return apply(x) if times > 1 else x


def _concatenate(_node: Node, *inputs: Any) -> Tensor:
    """ConcatV2: the last input is the axis."""
    return join(inputs[:-1], int(inputs[-1]))


def _split(node: Node, axis: Any, x: Tensor) -> Any:
    return tf.split(x, node.attrs["num_split"], int(axis))


def _split_v(_node: Node, x: Tensor, sizes: Any, axis: Any) -> Any:
    return tf.split(x, [int(n) for n in np.asarray(sizes)], int(axis))


def _pack(node: Node, *inputs: Any) -> Tensor:
    return tf.stack(inputs, node.attrs["axis"])


def _unpack(node: Node, x: Tensor) -> Any:
    return tf.unstack(x, axis=node.attrs["axis"])


def _reverse(_node: Node, x: Tensor, axes: Any) -> Tensor:
    return tf.reverse(x, [int(axis) for axis in np.asarray(axes)])


def _pad(_node: Node, x: Tensor, margins: Any) -> Tensor:
    return pad(x, [(int(before), int(after)) for before, after in np.asarray(margins)])


def _tile(_node: Node, x: Tensor, multiples: Any) -> Tensor:
    for axis, times in enumerate(np.asarray(multiples)):
        x = tile(x, axis, int(times))
    return x


def _nearest(node: Node, x: Tensor, size: Any) -> Tensor:
    """ResizeNearestNeighbor to whole multiples of the size."""
    for axis, wanted in zip((1, 2), np.asarray(size)):
        if wanted % x.shape[axis] or node.attrs["align_corners"]:
            raise ModelError("only resizing to a whole multiple has a training program; use UpSampling2D")
        x = repeat(x, axis, int(wanted) // x.shape[axis])
    return x


def _strided_slice(node: Node, x: Tensor, begin: Any, end: Any, strides: Any) -> Tensor:
    """StridedSlice with steps of one, as in x[:, 2:5]."""
    attrs = node.attrs
    if attrs["ellipsis_mask"] or attrs["new_axis_mask"] or any(step != 1 for step in strides):
        raise ModelError("only slices such as x[:, 2:5] have a training program for the device; write them so")
    starts, sizes, shape = [0] * len(x.shape), [int(n) for n in x.shape], list[int]()
    for axis, whole in enumerate(x.shape):
        if axis < len(begin):
            bit, drop = 1 << axis, attrs["shrink_axis_mask"] >> axis & 1
            first = None if attrs["begin_mask"] & bit else int(begin[axis])
            last = None if attrs["end_mask"] & bit else int(end[axis])
            taken = range(whole)[int(begin[axis])] if drop else range(whole)[first:last]
            starts[axis], sizes[axis] = (taken, 1) if isinstance(taken, int) else (taken.start, len(taken))
        if axis >= len(begin) or not attrs["shrink_axis_mask"] >> axis & 1:
            shape.append(sizes[axis])
    return tf.reshape(cut(x, starts, sizes), shape)


def _reshape(_node: Node, x: Tensor, shape: Any) -> Tensor:
    return tf.reshape(x, [int(n) for n in np.asarray(shape)])


def _expand(_node: Node, x: Tensor, dim: Any) -> Tensor:
    return tf.reshape(x, tf.expand_dims(tf.zeros(x.shape), int(dim)).shape)


def _squeeze(node: Node, x: Tensor) -> Tensor:
    drop = [d % len(x.shape) for d in node.attrs["squeeze_dims"]] or [i for i, n in enumerate(x.shape) if n == 1]
    return tf.reshape(x, [n for i, n in enumerate(x.shape) if i not in drop])


def _transpose(_node: Node, x: Tensor, order: Any) -> Tensor:
    return tf.transpose(x, [int(n) for n in np.asarray(order)])


def _space_to_batch(_node: Node, x: Tensor, block: Any, margins: Any) -> Tensor:
    return tf.space_to_batch_nd(x, np.asarray(block), np.asarray(margins))


def _batch_to_space(_node: Node, x: Tensor, block: Any, crops: Any) -> Tensor:
    return tf.batch_to_space(x, np.asarray(block), np.asarray(crops))


SHAPES: Mapping[str, Callable[..., Any]] = {
    "BatchToSpaceND": _batch_to_space,
    "ConcatV2": _concatenate,
    "ExpandDims": _expand,
    "Pack": _pack,
    "Pad": _pad,
    "Reshape": _reshape,
    "ResizeNearestNeighbor": _nearest,
    "ReverseV2": _reverse,
    "SpaceToBatchND": _space_to_batch,
    "Split": _split,
    "SplitV": _split_v,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _unpack,
}
