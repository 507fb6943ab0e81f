"""Rows of a table by their numbers, as an embedding looks them up, and the gradient that adds them up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.trace import Node
from fedfleet.wire.errors import ModelError

Tensor = Any


def rows(table: Tensor, index: Tensor) -> Tensor:
    """table [V,...] at index int32[...] -> [...,...]; a number outside the table takes its first or last row."""
    inside = tf.minimum(tf.maximum(index, 0), table.shape[0] - 1)

    @custom_gradient
    def apply(table: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> Tensor:
            # SCATTER_ND adds up what falls on the same row
            return tf.scatter_nd(tf.reshape(inside, [-1, 1]), tf.reshape(g, [-1, *table.shape[1:]]), table.shape)

        return tf.gather(table, inside), gradient

    return apply(table)


def _gather(node: Node, table: Any, index: Any, axis: Any = 0) -> Tensor:
    """GatherV2 along the first axis, or ResourceGather."""
    if node.attrs["batch_dims"] or int(axis):
        raise ModelError("only a table's rows can be looked up, as Embedding does; use Embedding")
    return rows(tf.convert_to_tensor(table), tf.convert_to_tensor(index))


LOOKUPS: Mapping[str, Callable[..., Tensor]] = {"GatherV2": _gather, "ResourceGather": _gather}
