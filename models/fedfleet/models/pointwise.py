"""Elementwise operations with gradients in LiteRT builtins: no comparison, cast or select where a sign serves.

A slope is the derivative as a function of the operation's input x and output y. Where TensorFlow takes a side at a
kink, so does the slope here: relu(sign(x)) is 1 for x > 0 and 0 at 0.
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
Unary = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: at most 1.5e-7 off
ERF_STEP, ERF_TAIL = 0.3275911, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
MAX_POWER = 4


def positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0."""
    return tf.nn.relu(tf.sign(x))


def clipped(x: Tensor) -> Tensor:
    """relu in a form that is safe after a product of run-time tensors.

    TensorFlow 2.14 and 2.21 fold a RELU into a FULLY_CONNECTED, make that a BATCH_MATMUL again, and the relu is gone.
    """
    return tf.nn.leaky_relu(x, 0.0)


def shaped(value: Unary, slope: Slope) -> Callable[..., Tensor]:
    """The lowering of an operation of one tensor, from its value and its slope."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = value(x)
        return y, lambda g: g * slope(x, y)

    return lambda _node, x: apply(x)


def paired(value: Callable[[Tensor, Tensor], Tensor], parts: Callable[..., Pair]) -> Callable[..., Tensor]:
    """The lowering of an operation of two tensors that broadcast; `parts(g, a, b, y)` are the gradients before sums."""

    @custom_gradient
    def apply(a: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        y = value(a, b)

        def gradient(g: Tensor) -> Pair:
            left, right = parts(g, a, b, y)
            return collapse(left, a.shape), collapse(right, b.shape)

        return y, gradient

    def with_one(x: Tensor, constant: Any, first: bool) -> Tensor:
        """x is the first of the two, or the second; the other one needs no gradient."""

        @custom_gradient
        def apply(x: Tensor) -> tuple[Tensor, Any]:
            pair = (x, constant) if first else (constant, x)
            y = value(*pair)
            return y, lambda g: collapse(parts(g, *pair, y)[0 if first else 1], x.shape)

        return apply(x)

    def lower(_node: Node, a: Any, b: Any) -> Tensor:
        if isinstance(a, np.ndarray):
            return with_one(tf.convert_to_tensor(b), tf.constant(a), False)
        return with_one(a, tf.constant(b), True) if isinstance(b, np.ndarray) else apply(a, b)

    return lower


def collapse(g: Tensor, shape: Sequence[int]) -> Tensor:
    """g summed over the axes along which a tensor of `shape` was broadcast."""
    if tuple(g.shape) == tuple(shape):
        return g
    kept = [1] * (len(g.shape) - len(shape)) + list(shape)
    axes = [i for i, size in enumerate(kept) if size != g.shape[i]]
    if axes == list(range(len(axes))):
        return tf.reshape(tf.reduce_sum(tf.reshape(g, [-1, int(np.prod(kept))]), 0), shape)
    return tf.reshape(tf.reduce_sum(g, axes), shape)


def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """LeakyRelu: x, or alpha x below zero."""
    alpha = node.attrs["alpha"]
    apply = shaped(lambda x: tf.nn.leaky_relu(x, alpha), lambda x, _y: alpha + (1.0 - alpha) * positive(x))
    return apply(node, x)


def log_softmax(_node: Node, x: Tensor) -> Tensor:
    """LogSoftmax over the last axis."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        return tf.nn.log_softmax(x), lambda g: g - tf.nn.softmax(x) * tf.reduce_sum(g, -1, keepdims=True)

    return apply(x)


def softmax(_node: Node, x: Tensor) -> Tensor:
    """Softmax over the last axis."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.nn.softmax(x)

        def gradient(g: Tensor) -> Tensor:
            scaled = g * y
            return scaled - y * tf.reduce_sum(scaled, -1, keepdims=True)

        return y, gradient

    return apply(x)


def power(node: Node, x: Tensor, exponent: Any) -> Tensor:
    """Pow by a whole number, as products."""
    known = isinstance(exponent, np.ndarray) and exponent.size == 1
    number = float(exponent) if known else 0.0
    if number not in range(2, MAX_POWER + 1):
        raise ModelError(f"only powers of 2 to {MAX_POWER} have a training program for the device; use products")
    y = x
    for _ in range(int(number) - 1):
        y = POINTWISE["Mul"](node, y, x)
    return y


def divide_no_nan(node: Node, a: Tensor, b: Any) -> Tensor:
    """DivNoNan by known numbers other than zero, as Keras 2 divides by the sum of its weights."""
    if not isinstance(b, np.ndarray) or not b.all():
        raise ModelError("a division that makes 0 of x / 0 has no training program for the device; use x / (y + small)")
    return POINTWISE["RealDiv"](node, a, b)


def erf(x: Tensor) -> Tensor:
    """The error function, within 1.5e-7."""
    size = tf.abs(x)
    t = 1.0 / (1.0 + ERF_STEP * size)
    tail = t * ERF_TAIL[0]
    for factor in ERF_TAIL[1:]:
        tail = (tail + factor) * t
    return tf.sign(x) * (1.0 - tail * tf.exp(-size * size))


def _bell(x: Tensor) -> Tensor:
    """The slope of erf."""
    return tf.exp(-x * x) * (2.0 / np.sqrt(np.pi))


def _selu(x: Tensor) -> Tensor:
    return SELU_SCALE * clipped(x) + SELU_SCALE * SELU_ALPHA * tf.nn.elu(tf.minimum(x, 0.0))


def _selu_slope(x: Tensor, y: Tensor) -> Tensor:
    return SELU_SCALE + positive(-x) * (y + SELU_SCALE * (SELU_ALPHA - 1.0))


def _soft_plus(x: Tensor) -> Tensor:
    return clipped(x) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))


def _larger(g: Tensor, a: Tensor, b: Tensor, _y: Tensor) -> Pair:
    """Of a maximum: ties go to a, as in TensorFlow."""
    right = g * positive(b - a)
    return g - right, right


def _smaller(g: Tensor, a: Tensor, b: Tensor, _y: Tensor) -> Pair:
    right = g * positive(a - b)
    return g - right, right


def _differences(g: Tensor, a: Tensor, b: Tensor, _y: Tensor) -> Pair:
    """Of a squared difference."""
    left = (g + g) * (a - b)
    return left, -left


POINTWISE: Mapping[str, Callable[..., Tensor]] = {
    "Abs": shaped(tf.abs, lambda x, _y: tf.sign(x)),
    "Add": paired(tf.add, lambda g, _a, _b, _y: (g, g)),
    "AddV2": paired(tf.add, lambda g, _a, _b, _y: (g, g)),
    "DivNoNan": divide_no_nan,
    "Elu": shaped(tf.nn.elu, lambda _x, y: tf.minimum(y, 0.0) + 1.0),
    "Erf": shaped(erf, lambda x, _y: _bell(x)),
    "Erfc": shaped(lambda x: 1.0 - erf(x), lambda x, _y: -_bell(x)),
    "Exp": shaped(tf.exp, lambda _x, y: y),
    "Expm1": shaped(lambda x: tf.exp(x) - 1.0, lambda _x, y: y + 1.0),
    "LeakyRelu": leaky_relu,
    "Log": shaped(tf.math.log, lambda x, _y: 1.0 / x),
    "LogSoftmax": log_softmax,
    "Maximum": paired(tf.maximum, _larger),
    "Minimum": paired(tf.minimum, _smaller),
    "Mul": paired(tf.multiply, lambda g, a, b, _y: (g * b, g * a)),
    "Neg": lambda _node, x: tf.negative(x),
    "Pow": power,
    "RealDiv": paired(tf.divide, lambda g, _a, b, y: (g / b, -g * y / b)),
    "Relu": shaped(tf.nn.relu, lambda _x, y: tf.sign(y)),
    "Relu6": shaped(tf.nn.relu6, lambda _x, y: tf.sign(y) * tf.sign(6.0 - y)),
    "ReluOfProduct": shaped(clipped, lambda _x, y: tf.sign(y)),
    "Relu6OfProduct": shaped(lambda x: tf.minimum(clipped(x), 6.0), lambda _x, y: tf.sign(y) * tf.sign(6.0 - y)),
    "Rsqrt": shaped(tf.math.rsqrt, lambda _x, y: -0.5 * y * y * y),
    "Selu": shaped(_selu, _selu_slope),
    "Sigmoid": shaped(tf.sigmoid, lambda _x, y: y - y * y),
    "Softmax": softmax,
    "Softplus": shaped(_soft_plus, lambda x, _y: tf.sigmoid(x)),
    "Softsign": shaped(lambda x: x / (1.0 + tf.abs(x)), lambda _x, y: (1.0 - tf.abs(y)) * (1.0 - tf.abs(y))),
    "Sqrt": shaped(tf.sqrt, lambda _x, y: 0.5 / y),
    "Square": shaped(lambda x: x * x, lambda x, _y: x + x),
    "SquaredDifference": paired(tf.math.squared_difference, _differences),
    "StopGradient": lambda _node, x: tf.stop_gradient(x),
    "Sub": paired(tf.subtract, lambda g, _a, _b, _y: (g, -g)),
    "Tanh": shaped(tf.tanh, lambda _x, y: 1.0 - y * y),
}
