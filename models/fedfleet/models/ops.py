"""What each TensorFlow op becomes on the device: an op type, and a function of tensors that LiteRT builtins can run.

A lowering takes the node and its inputs (constants as NumPy arrays) and returns the node's outputs. Where TensorFlow's
own gradient has no LiteRT builtin, the lowering brings its own. A new op is one function and one line in LOWER.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models import fixed
from fedfleet.models.contract import CONTRACTIONS
from fedfleet.models.conv import product
from fedfleet.models.dropout import DROPOUT
from fedfleet.models.gradient import custom_gradient
from fedfleet.models.logic import LOGIC
from fedfleet.models.lookup import LOOKUPS
from fedfleet.models.norms import NORMS
from fedfleet.models.pointwise import POINTWISE, collapse
from fedfleet.models.reductions import REDUCTIONS
from fedfleet.models.shapes import SHAPES
from fedfleet.models.shared import Hubs
from fedfleet.models.trace import SEED, Node, Trace, owner
from fedfleet.models.unroll import MAX_STEPS
from fedfleet.models.windows import WINDOWS
from fedfleet.wire.errors import ModelError

Tensor = Any
Lowering = Callable[..., Any]


def replay(trace: Trace, x: Tensor, weights: Sequence[Tensor], seed: Tensor = None) -> Mapping[str, Tensor]:
    """All tensors of the forward pass by name, from the input, the trainable weights and the seed of its dropout."""
    values: dict[str, Tensor] = {**trace.constants, SEED: seed}
    values[trace.input] = x
    values.update((name, weights[i]) for name, i in trace.trainable.items())
    hubs = Hubs(trace)
    for node in trace.nodes:
        arguments = [values[name] for name in node.inputs]
        try:
            result = hubs.apply(node, *arguments) if hubs.shares(node, arguments) else LOWER[node.op](node, *arguments)
        except ModelError as error:
            raise ModelError(f"{owner(trace, node)}: {error}") from error
        values.update(zip(node.outputs, result if isinstance(result, (list, tuple)) else [result]))
    return values


def check(trace: Trace) -> None:
    """ModelError, naming the layer, for the first op that has no lowering."""
    unknown = [node for node in trace.nodes if node.op not in LOWER]
    # around a loop stand ops that nobody has written
    for node in sorted(unknown, key=lambda node: node.op not in LOOPS):
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
    if isinstance(b, np.ndarray):
        return fixed.product(a, b.T if flip_b else b)
    if flip_b:
        b = tf.transpose(b)

    @custom_gradient
    def apply(a: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            return product(g, b, transpose_b=True), product(a, g, transpose_a=True)

        return product(a, b), gradient

    return apply(a, b)


LOWER: dict[str, Lowering] = {
    **POINTWISE,
    **SHAPES,
    **REDUCTIONS,
    **NORMS,
    **WINDOWS,
    **LOGIC,
    **LOOKUPS,
    **CONTRACTIONS,
    **DROPOUT,
    "BiasAdd": _bias_add,
    "MatMul": _matmul,
}

LOOPS = ("While", "StatelessWhile")
WRITTEN_OUT = f"SimpleRNN, GRU, LSTM and RNN are written out up to {MAX_STEPS} steps: shorten the sequence"

INSTEAD: dict[str, str] = {
    "Conv3D": "use Conv2D",
    "MirrorPad": "use ZeroPadding2D",
    "ResizeBilinear": "use UpSampling2D with interpolation='nearest'",
    **dict.fromkeys(LOOPS, WRITTEN_OUT),
}
