"""Whole numbers, comparisons and choices; a gradient flows only through the side that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.pointwise import collapse
from fedfleet.models.trace import Node
from fedfleet.wire.errors import ModelError

Tensor = Any
DTYPES = (tf.float32, tf.int32, tf.bool)


def choose(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, else b; all three broadcast."""

    @custom_gradient
    def apply(a: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            left = tf.where(condition, g, 0.0)
            return collapse(left, a.shape), collapse(g - left, b.shape)

        return tf.where(condition, a, b), gradient

    return apply(a, b) if a.dtype.is_floating else tf.where(condition, a, b)


def _select(_node: Node, condition: Any, a: Any, b: Any) -> Tensor:
    return choose(*(tf.convert_to_tensor(t) for t in (condition, a, b)))


def _cast(node: Node, x: Tensor) -> Tensor:
    source, target = node.attrs["SrcT"], node.attrs["DstT"]
    if source not in DTYPES or target not in DTYPES:
        raise ModelError(f"{source.name} to {target.name} has no training program; keep to float32 and int32")
    return tf.not_equal(x, tf.zeros([], source)) if target == tf.bool else tf.cast(x, target)


def _compared(compare: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _node, a, b: compare(a, b)


LOGIC: Mapping[str, Callable[..., Tensor]] = {
    "Cast": _cast,
    "Equal": _compared(tf.equal),
    "Greater": _compared(tf.greater),
    "GreaterEqual": _compared(tf.greater_equal),
    "Less": _compared(tf.less),
    "LessEqual": _compared(tf.less_equal),
    "LogicalAnd": _compared(tf.logical_and),
    "LogicalNot": lambda _node, x: tf.logical_not(x),
    "LogicalOr": _compared(tf.logical_or),
    "NotEqual": _compared(tf.not_equal),
    "Select": _select,
    "SelectV2": _select,
}
