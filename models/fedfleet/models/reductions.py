"""Sums, means and maxima over axes, and the gradients that spread back over them.

A run of neighbouring axes is reduced as the middle one of three: LiteRT has fast loops for that, and any rank will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.trace import Node

Tensor = Any
Inner = Callable[[Tensor], Tensor]


def mean(x: Tensor) -> Tensor:
    """The mean over the middle axis of x [P,N,Q] -> [P,1,Q]."""
    return _linear(x, 1.0 / x.shape[1])


def total(x: Tensor) -> Tensor:
    """The sum over the middle axis of x [P,N,Q] -> [P,1,Q]."""
    return _linear(x, 1.0)


def maximum(x: Tensor) -> Tensor:
    """The maximum over the middle axis of x [P,N,Q] -> [P,1,Q]; equal maxima share the gradient, as in TensorFlow."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.reduce_max(x, 1, keepdims=True)

        def gradient(g: Tensor) -> Tensor:
            hit = 1.0 - tf.sign(y - x)
            return hit * (g / tf.reduce_sum(hit, 1, keepdims=True))

        return y, gradient

    return apply(x)


def reduce(x: Tensor, axes: Sequence[int], keep: bool, inner: Inner) -> Tensor:
    """`inner` over each run of neighbouring axes."""
    rank = len(x.shape)
    chosen = sorted({axis % rank for axis in axes})
    shape = [1 if i in chosen else int(n) for i, n in enumerate(x.shape)]
    for first, last in _runs(chosen):
        outer, middle = (int(np.prod(x.shape[a:b])) for a, b in ((0, first), (first, last)))
        y = inner(tf.reshape(x, [outer, middle, -1]))
        x = tf.reshape(y, [*x.shape[:first], *[1] * (last - first), *x.shape[last:]])
    return tf.reshape(x, shape if keep else [n for i, n in enumerate(shape) if i not in chosen])


def _linear(x: Tensor, scale: float) -> Tensor:
    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.reduce_sum(x, 1, keepdims=True) if scale == 1.0 else tf.reduce_mean(x, 1, keepdims=True)
        # a product spreads and scales in one fast op, where BROADCAST_TO would only spread
        return y, lambda g: g * tf.fill([1, x.shape[1], 1], scale)

    return apply(x)


def _runs(axes: Sequence[int]) -> list[tuple[int, int]]:
    """First axis and the one past the last of each run of neighbours."""
    firsts = [axis for axis in axes if axis - 1 not in axes]
    lasts = [axis + 1 for axis in axes if axis + 1 not in axes]
    return list(zip(firsts, lasts))


def _reduction(inner: Inner) -> Callable[..., Tensor]:
    def lower(node: Node, x: Tensor, axes: Any) -> Tensor:
        return reduce(x, [int(axis) for axis in np.atleast_1d(axes)], node.attrs["keep_dims"], inner)

    return lower


REDUCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "Max": _reduction(maximum),
    "Mean": _reduction(mean),
    "Sum": _reduction(total),
}
