"""Products of two tensors over any axes, as attention takes them: transposed and reshaped to one batched product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models.conv import product
from fedfleet.models.gradient import custom_gradient
from fedfleet.models.shapes import tile
from fedfleet.models.trace import Node
from fedfleet.wire.errors import ModelError

Tensor = Any


def batched(a: Tensor, b: Tensor) -> Tensor:
    """The products of a [N,M,K] and b [N,K,L], or of two matrices."""

    @custom_gradient
    def apply(a: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            return product(g, b, transpose_b=True), product(a, g, transpose_a=True)

        return tf.matmul(a, b), gradient

    return apply(a, b)


def einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """Einstein's sum of two tensors; ModelError where a label stands twice in one, or alone and not in the result."""
    sides, _, result = equation.replace(" ", "").partition("->")
    left, right = sides.split(",")
    both = [label for label in left if label in right]
    shared, summed = [x for x in both if x in result], [x for x in both if x not in result]
    alone = [[x for x in side if x not in both] for side in (left, right)]
    if "." in equation or len({*left}) < len(left) or len({*right}) < len(right) or {*alone[0], *alone[1]} - {*result}:
        raise ModelError(f"einsum {equation!r} has no training program; use products of distinct axes")
    size = {label: int(n) for label, n in (*zip(left, a.shape), *zip(right, b.shape))}
    rows = _laid(a, left, size, (shared, alone[0], summed))
    columns = _laid(b, right, size, (shared, summed, alone[1]))
    order = [*shared, *alone[0], *alone[1]]
    y = tf.reshape(batched(rows, columns), [size[x] for x in order])
    return _transposed(y, [order.index(x) for x in result])


def _laid(x: Tensor, labels: str, size: Mapping[str, int], groups: tuple[list[str], list[str], list[str]]) -> Tensor:
    """x with its axes in the groups' order, each group one axis; the first is left out where it is empty."""
    turned = _transposed(x, [labels.index(label) for group in groups for label in group])
    shape = [int(np.prod([size[label] for label in group], dtype=int)) for group in groups]
    return tf.reshape(turned, shape if groups[0] else shape[1:])


def _transposed(x: Tensor, order: Sequence[int]) -> Tensor:
    return x if list(order) == sorted(order) else tf.transpose(x, order)


def _einsum(node: Node, *tensors: Any) -> Tensor:
    equation = node.attrs["equation"].decode()
    if len(tensors) != 2:
        raise ModelError(f"einsum {equation!r} has no training program; take two tensors at a time")
    return einsum(equation, *(tf.convert_to_tensor(t) for t in tensors))


def _batch_matmul(node: Node, a: Any, b: Any) -> Tensor:
    """BatchMatMulV2, and V3 of float32: the axes before the last two broadcast."""
    a, b = (tf.convert_to_tensor(t) for t in (a, b))
    a, b = (_flipped(t) if node.attrs[flag] else t for t, flag in ((a, "adj_x"), (b, "adj_y")))
    if len(b.shape) == 2:
        return tf.reshape(batched(tf.reshape(a, [-1, a.shape[-1]]), b), [*a.shape[:-1], b.shape[-1]])
    lead = np.broadcast_shapes(tuple(a.shape[:-2]), tuple(b.shape[:-2]))
    a, b = (tf.reshape(_widened(t, lead), [-1, *t.shape[-2:]]) for t in (a, b))
    return tf.reshape(batched(a, b), [*lead, a.shape[-2], b.shape[-1]])


def _flipped(x: Tensor) -> Tensor:
    rank = len(x.shape)
    return tf.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def _widened(x: Tensor, lead: Sequence[int]) -> Tensor:
    """x with `lead` for its axes before the last two."""
    x = tf.reshape(x, [*[1] * (len(lead) + 2 - len(x.shape)), *x.shape])
    for axis, size in enumerate(lead):
        x = tile(x, axis, size // x.shape[axis])
    return x


CONTRACTIONS: Mapping[str, Callable[..., Tensor]] = {"BatchMatMulV2": _batch_matmul, "Einsum": _einsum}
