"""What each TensorFlow op becomes on the device: an op type, and a function of tensors that LiteRT builtins can run.

A lowering takes the node and its inputs (constants as NumPy arrays) and returns the node's outputs. Where TensorFlow's
own gradient has no LiteRT builtin, the lowering brings its own. A new op is one function and one line in LOWER.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from fedfleet.models.conv import Axis, axis, conv2d, product
from fedfleet.models.gradient import custom_gradient
from fedfleet.models.pointwise import POINTWISE, collapse
from fedfleet.models.pool import max_pool, mean_pool
from fedfleet.models.reductions import REDUCTIONS
from fedfleet.models.shapes import SHAPES
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
            advice = INSTEAD.get(node.op, "docs/compiler.md lists the layers that have one")
            raise ModelError(f"{owner(trace, node)}: op {node.op} has no training program for the device; {advice}")


def _bias_add(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    if node.attrs["data_format"] != b"NHWC":
        raise ModelError("channels come first; use data_format='channels_last'")

    @custom_gradient
    def apply(x: Tensor, bias: Tensor) -> tuple[Tensor, Any]:
        return x + bias, lambda g: (g, collapse(g, bias.shape))

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


def _mean_pool(node: Node, x: Tensor) -> Tensor:
    rows, cols = _axes(node, x, node.attrs["ksize"][1:3], [1, 1, 1, 1])
    return mean_pool(x, rows, cols)


def _axes(node: Node, x: Tensor, kernel: Sequence[int], dilations: Sequence[int]) -> tuple[Axis, Axis]:
    """The two spatial axes of a windowed op."""
    if node.attrs["data_format"] != b"NHWC" or node.attrs["padding"] not in {b"SAME", b"VALID"}:
        raise ModelError("only channels_last with padding 'same' or 'valid' is supported")
    same, strides = node.attrs["padding"] == b"SAME", node.attrs["strides"]
    rows, cols = (axis(x.shape[i], int(kernel[i - 1]), strides[i], dilations[i], same) for i in (1, 2))
    return rows, cols


LOWER: dict[str, Lowering] = {
    **POINTWISE,
    **SHAPES,
    **REDUCTIONS,
    "AvgPool": _mean_pool,
    "BiasAdd": _bias_add,
    "Conv2D": _conv2d,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}

INSTEAD: dict[str, str] = {
    "FusedBatchNormV3": "leave batch normalisation out, or rescale the input",
    "DepthwiseConv2dNative": "use Conv2D",
}
