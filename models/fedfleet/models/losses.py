"""The losses a device program can train on: a name, the target it takes, and functions of the model's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.pointwise import clipped

Tensor = Any
Shape = tuple[int, ...]
Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss by example: `each` and `score` take (output [B, ...], target) and return float32 [B].

    `refusal` says why an output of some shape (without batch) does not fit, or nothing. `final`: the op that turns
    logits into probabilities; where it ends the model, what goes into it counts.
    """

    dtype: Any
    target: Callable[[Shape], Shape]
    refusal: Callable[[Shape], str | None]
    each: Score
    score: Score
    final: str | None


def _cross_entropy(z: Tensor, target: Tensor) -> Tensor:
    """-sum target log softmax(z) for z and distributions target [B,C]; finite for any finite z."""

    @custom_gradient
    def apply(z: Tensor) -> tuple[Tensor, Any]:
        shifted = z - tf.reduce_max(z, 1, keepdims=True)
        grown = tf.exp(shifted)
        total = tf.reduce_sum(grown, 1, keepdims=True)
        each = tf.reduce_sum(target * (tf.math.log(total) - shifted), 1)
        return each, lambda g: (grown / total - target) * tf.reshape(g, [-1, 1])

    return apply(z)


def _label_entropy(z: Tensor, label: Tensor) -> Tensor:
    """-log softmax(z)[label] for z [B,C], label int32 [B]."""
    return _cross_entropy(z, tf.one_hot(label, z.shape[1]))


def _correct(z: Tensor, label: Tensor) -> Tensor:
    return tf.cast(tf.equal(tf.argmax(z, 1, output_type=tf.int32), label), tf.float32)


def _correct_class(z: Tensor, target: Tensor) -> Tensor:
    return _correct(z, tf.argmax(target, 1, output_type=tf.int32))


def _binary_entropy(z: Tensor, target: Tensor) -> Tensor:
    """The mean over an example's outputs of -log of the probability that logit z gives a target of 0 to 1."""

    @custom_gradient
    def apply(z: Tensor) -> tuple[Tensor, Any]:
        value = clipped(z) - z * target + tf.math.log(1.0 + tf.exp(-tf.abs(z)))
        return value, lambda g: g * (tf.sigmoid(z) - target)

    return _by_example(apply(z))


def _right_side(z: Tensor, target: Tensor) -> Tensor:
    """The share of an example's outputs whose logit has the sign that the target asks for."""
    return _by_example(tf.cast(tf.equal(z > 0.0, target > 0.5), tf.float32))


def _by_example(values: Tensor) -> Tensor:
    """The mean over all but the first axis."""
    flat = tf.reshape(values, [values.shape[0], -1])
    return tf.reduce_sum(flat, 1) * (1.0 / flat.shape[1])


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean over an example's outputs of the squared difference."""
    difference = output - target
    return _by_example(difference * difference)


def _absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean over an example's outputs of the difference without its sign."""
    return _by_example(tf.abs(output - target))


def _huber(output: Tensor, target: Tensor) -> Tensor:
    """The mean over an example's outputs of half the squared difference, growing by a straight line beyond 1."""

    @custom_gradient
    def apply(difference: Tensor) -> tuple[Tensor, Any]:
        near = tf.maximum(tf.minimum(difference, 1.0), -1.0)
        return near * (difference - 0.5 * near), lambda g: g * near

    return _by_example(apply(output - target))


def _classes(shape: Shape) -> str | None:
    if len(shape) == 1 and shape[0] >= 2:
        return None
    return f"needs one output per class, at least 2, but the model's output is {list(shape)}; end it in Dense(classes)"


def _outputs(shape: Shape) -> str | None:
    return None if shape else "needs at least one output per example; end the model in Dense(1)"


def _of_classes(dtype: Any, target: Callable[[Shape], Shape], each: Score, score: Score) -> Loss:
    return Loss(dtype, target, _classes, each, score, "Softmax")


def _of_numbers(each: Score, score: Score, final: str | None = None) -> Loss:
    return Loss(tf.float32, lambda shape: shape, _outputs, each, score, final)


LOSSES: Mapping[str, Loss] = {
    "sparse_categorical_crossentropy": _of_classes(tf.int32, lambda _shape: (), _label_entropy, _correct),
    "categorical_crossentropy": _of_classes(tf.float32, lambda shape: shape, _cross_entropy, _correct_class),
    "binary_crossentropy": _of_numbers(_binary_entropy, _right_side, "Sigmoid"),
    "mean_squared_error": _of_numbers(_squared_error, _squared_error),
    "mean_absolute_error": _of_numbers(_absolute_error, _absolute_error),
    "huber": _of_numbers(_huber, _absolute_error),
}
