"""Normalisation ops that TensorFlow fuses: with frozen statistics a scale and an offset, or row by row.

Batch statistics never train here: a batch of a device is small and unlike the next device's. They stay what the model
brought; scale and offset train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.pointwise import POINTWISE
from fedfleet.models.trace import Node
from fedfleet.wire.errors import ModelError

Tensor = Any


def standardise(x: Tensor, epsilon: float) -> Tensor:
    """Each row of x [N,M] less its mean, over the root of its variance plus epsilon."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        centred = x - tf.reduce_mean(x, 1, keepdims=True)
        scale = tf.math.rsqrt(tf.reduce_mean(centred * centred, 1, keepdims=True) + epsilon)
        y = centred * scale

        def gradient(g: Tensor) -> Tensor:
            along = tf.reduce_mean(g * y, 1, keepdims=True)
            return scale * (g - tf.reduce_mean(g, 1, keepdims=True) - y * along)

        return y, gradient

    return apply(x)


def _fused(node: Node, x: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor) -> list[Tensor]:
    """FusedBatchNormV3, its first output: Keras 2 also writes layer normalisation as one, rows as channels."""
    multiply, add = POINTWISE["Mul"], POINTWISE["AddV2"]
    if not node.attrs["is_training"]:
        factor = multiply(node, scale, tf.math.rsqrt(tf.convert_to_tensor(variance) + node.attrs["epsilon"]))
        y = add(node, multiply(node, x, factor), add(node, offset, -multiply(node, factor, mean)))
    elif node.attrs["data_format"] == b"NCHW" and x.shape[0] == 1 and x.shape[3] == 1:
        rows = standardise(tf.reshape(x, x.shape[1:3]), node.attrs["epsilon"])
        columns = [tf.reshape(t, [-1, 1]) for t in (scale, offset)]
        y = tf.reshape(add(node, multiply(node, rows, columns[0]), columns[1]), x.shape)
    else:
        raise ModelError("statistics of the batch have no training program; use BatchNormalization with training=False")
    return [y] * 6


NORMS: Mapping[str, Callable[..., Any]] = {"FusedBatchNormV3": _fused}
