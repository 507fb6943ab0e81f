"""What each TensorFlow op becomes on the device: an op type, and a function of tensors that LiteRT builtins can run.

A lowering takes the node and its inputs (constants as NumPy arrays) and returns the node's outputs. Where TensorFlow's
own gradient has no LiteRT builtin, the lowering brings its own. A new op is one function and one line in LOWER.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models.conv import Axis, axis, conv2d, product
from fedfleet.models.gradient import custom_gradient
from fedfleet.models.pool import max_pool
from fedfleet.models.trace import Node, Trace, owner
from fedfleet.wire.errors import ModelError

Tensor = Any
Lowering = Callable[..., Any]


def replay(trace: Trace, x: Tensor, weights: Sequence[Tensor]) -> Mapping[str, Tensor]:
    """All tensors of the forward pass by name, from the input and the trainable weights."""
    values: dict[str, Tensor] = dict(trace.constants)
    values[trace.input] = x
    values.update((name, weights[i]) for name, i in trace.trainable.items())
    for node in trace.nodes:
        try:
            result = LOWER[node.op](node, *(values[name] for name in node.inputs))
        except ModelError as error:
            raise ModelError(f"{owner(trace, node)}: {error}") from error
        values.update(zip(node.outputs, result if isinstance(result, (list, tuple)) else [result]))
    return values


def check(trace: Trace) -> None:
    """ModelError, naming the layer, for the first op that has no lowering."""
    for node in trace.nodes:
        if node.op not in LOWER:
            advice = INSTEAD.get(node.op, "use Dense, Conv2D, Conv1D, MaxPooling2D, Flatten or Reshape")
            raise ModelError(f"{owner(trace, node)}: op {node.op} has no training program for the device; {advice}")


def _relu(_node: Node, x: Tensor) -> Tensor:
    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.nn.relu(x)
        return y, lambda g: g * tf.sign(y)

    return apply(x)


def _tanh(_node: Node, x: Tensor) -> Tensor:
    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.tanh(x)
        return y, lambda g: g - g * y * y

    return apply(x)


def _sigmoid(_node: Node, x: Tensor) -> Tensor:
    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.sigmoid(x)
        return y, lambda g: g * (y - y * y)

    return apply(x)


def _softmax(_node: Node, x: Tensor) -> Tensor:
    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.nn.softmax(x)

        def gradient(g: Tensor) -> Tensor:
            scaled = g * y
            return scaled - y * tf.reduce_sum(scaled, -1, keepdims=True)

        return y, gradient

    return apply(x)


def _bias_add(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    if node.attrs["data_format"] != b"NHWC":
        raise ModelError("channels come first; use data_format='channels_last'")

    @custom_gradient
    def apply(x: Tensor, bias: Tensor) -> tuple[Tensor, Any]:
        return x + bias, lambda g: (g, tf.reduce_sum(tf.reshape(g, [-1, g.shape[-1]]), 0))

    return apply(x, bias)


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    flip_a, flip_b = node.attrs["transpose_a"], node.attrs["transpose_b"]
    if flip_a:
        a = tf.transpose(a)
    if flip_b:
        b = tf.transpose(b)

    @custom_gradient
    def apply(a: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            return product(g, b, transpose_b=True), product(a, g, transpose_a=True)

        return product(a, b), gradient

    return apply(a, b)


def _conv2d(node: Node, x: Tensor, kernel: Tensor) -> Tensor:
    rows, cols = _axes(node, x, kernel.shape[:2], node.attrs["dilations"])
    if kernel.shape[2] != x.shape[3]:
        raise ModelError("grouped convolutions have no training program for the device; use groups=1")
    return conv2d(x, kernel, rows, cols)


def _max_pool(node: Node, x: Tensor) -> Tensor:
    rows, cols = _axes(node, x, node.attrs["ksize"][1:3], [1, 1, 1, 1])
    return max_pool(x, rows, cols)


def _axes(node: Node, x: Tensor, kernel: Sequence[int], dilations: Sequence[int]) -> tuple[Axis, Axis]:
    """The two spatial axes of a windowed op."""
    if node.attrs["data_format"] != b"NHWC" or node.attrs["padding"] not in {b"SAME", b"VALID"}:
        raise ModelError("only channels_last with padding 'same' or 'valid' is supported")
    same, strides = node.attrs["padding"] == b"SAME", node.attrs["strides"]
    rows, cols = (axis(x.shape[i], int(kernel[i - 1]), strides[i], dilations[i], same) for i in (1, 2))
    return rows, cols


def _reshape(_node: Node, x: Tensor, shape: Any) -> Tensor:
    return tf.reshape(x, [int(n) for n in np.asarray(shape)])


def _expand(_node: Node, x: Tensor, dim: Any) -> Tensor:
    return tf.reshape(x, tf.expand_dims(tf.zeros(x.shape), int(dim)).shape)


def _squeeze(node: Node, x: Tensor) -> Tensor:
    drop = [d % len(x.shape) for d in node.attrs["squeeze_dims"]] or [i for i, n in enumerate(x.shape) if n == 1]
    return tf.reshape(x, [n for i, n in enumerate(x.shape) if i not in drop])


def _transpose(_node: Node, x: Tensor, order: Any) -> Tensor:
    return tf.transpose(x, [int(n) for n in np.asarray(order)])


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Lowering:
    """A lowering for an elementwise op of two tensors whose own gradient is made of builtins."""
    return lambda _node, a, b: function(a, b)


LOWER: dict[str, Lowering] = {
    "Add": _two(tf.add),
    "AddV2": _two(tf.add),
    "BiasAdd": _bias_add,
    "Conv2D": _conv2d,
    "ExpandDims": _expand,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _two(tf.multiply),
    "Neg": lambda _node, x: tf.negative(x),
    "RealDiv": _two(tf.divide),
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "StopGradient": lambda _node, x: tf.stop_gradient(x),
    "Sub": _two(tf.subtract),
    "Tanh": _tanh,
    "Transpose": _transpose,
}

INSTEAD: dict[str, str] = {
    "Elu": "use activation='relu' or 'tanh'",
    "Erf": "use activation='relu' instead of gelu",
    "FusedBatchNormV3": "leave batch normalisation out, or rescale the input",
    "AvgPool": "use MaxPooling2D",
    "DepthwiseConv2dNative": "use Conv2D",
    "SpaceToBatchND": "use dilation_rate=1",
}
