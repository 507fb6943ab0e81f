"""The losses a device program can train on: a name, the target it takes, and functions of the model's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from fedfleet.models.gradient import custom_gradient

Tensor = Any
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Loss:
    """A loss by example: `each` and `score` take (output [B, ...], target) and return float32 [B].

    `refusal` says why an output of some shape (without batch) does not fit, or nothing. `logits`: the output that
    counts is the one before a final softmax.
    """

    dtype: Any
    target: Callable[[Shape], Shape]
    refusal: Callable[[Shape], str | None]
    each: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    logits: bool


def _cross_entropy(z: Tensor, label: Tensor) -> Tensor:
    """-log softmax(z)[label] for z [B,C], label int32 [B]; finite for any finite z."""
    hot = tf.one_hot(label, z.shape[1])

    @custom_gradient
    def apply(z: Tensor) -> tuple[Tensor, Any]:
        shifted = z - tf.reduce_max(z, 1, keepdims=True)
        grown = tf.exp(shifted)
        total = tf.reduce_sum(grown, 1, keepdims=True)
        each = tf.reduce_sum(hot * (tf.math.log(total) - shifted), 1)
        return each, lambda g: (grown / total - hot) * tf.reshape(g, [-1, 1])

    return apply(z)


def _correct(z: Tensor, label: Tensor) -> Tensor:
    return tf.cast(tf.equal(tf.argmax(z, 1, output_type=tf.int32), label), tf.float32)


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean over an example's outputs of the squared difference."""
    difference = tf.reshape(output - target, [output.shape[0], -1])
    return tf.reduce_sum(difference * difference, 1) * (1.0 / difference.shape[1])


def _classes(shape: Shape) -> str | None:
    if len(shape) == 1 and shape[0] >= 2:
        return None
    return f"needs one output per class, at least 2, but the model's output is {list(shape)}; end it in Dense(classes)"


LOSSES: Mapping[str, Loss] = {
    "sparse_categorical_crossentropy": Loss(
        dtype=tf.int32,
        target=lambda _shape: (),
        refusal=_classes,
        each=_cross_entropy,
        score=_correct,
        logits=True,
    ),
    "mean_squared_error": Loss(
        dtype=tf.float32,
        target=lambda shape: shape,
        refusal=lambda shape: None if shape else "needs at least one output per example; end the model in Dense(1)",
        each=_squared_error,
        score=_squared_error,
        logits=False,
    ),
}
