"""A weight that many steps use: its gradient is one product, or one sum, over all steps together.

The gradient of every step leaves what it has at the weight's hub. TensorFlow asks the hub for its own gradient after
all of them, and there is one large product to take, where the rule of sums would ask for one small product a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from fedfleet.models.conv import product
from fedfleet.models.gradient import custom_gradient
from fedfleet.models.trace import Node, Trace

Tensor = Any
Step = Callable[[Tensor], Tensor]


def matrix(b: Tensor) -> Step:
    """The products of many matrices a [M,K] with one b [K,N]."""
    met: list[tuple[Tensor, Tensor]] = []
    turned = _turned(b)

    def whole(_token: Tensor) -> Tensor:
        lefts, gradients = (tf.concat(part, 0) for part in zip(*met))
        return product(lefts, gradients, transpose_a=True)

    @custom_gradient
    def hub(b: Tensor) -> tuple[Tensor, Any]:
        return tf.identity(b), whole

    @custom_gradient
    def step(a: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            met.append((a, g))
            return tf.matmul(g, turned), _token(b, met)

        return tf.matmul(a, b), gradient

    shared = hub(b)
    return lambda a: step(a, shared)


def bias(b: Tensor) -> Step:
    """The sums of many matrices x [M,N] with one b [N]."""
    met: list[Tensor] = []

    @custom_gradient
    def hub(b: Tensor) -> tuple[Tensor, Any]:
        return tf.identity(b), lambda _g: tf.reduce_sum(tf.concat(met, 0), 0)

    @custom_gradient
    def step(x: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            met.append(g)
            return g, _token(b, met)

        return x + b, gradient

    shared = hub(b)
    return lambda x: step(x, shared)


def _turned(b: Tensor) -> Tensor:
    """b transposed, cut and joined again so that the converter does not see it.

    It would make FULLY_CONNECTED of the products, at 2.0 to 2.3 times the time of BATCH_MATMUL.
    """
    turned = tf.transpose(b)
    return tf.concat([turned[:1], turned[1:]], 0) if b.shape[1] > 1 else turned


def _token(b: Tensor, met: list[Any]) -> Tensor | None:
    """What makes TensorFlow ask the hub for its gradient; one is enough, and its value is not looked at."""
    return tf.zeros(b.shape) if len(met) == 1 else None


# by op: the rank of what is shared, and its hub
SHARED: Mapping[str, tuple[int, Callable[[Tensor], Step]]] = {
    "AddV2": (1, bias),
    "BiasAdd": (1, bias),
    "MatMul": (2, matrix),
}


class Hubs:
    """The hubs of one forward pass, made when the first of their steps is met."""

    def __init__(self, trace: Trace) -> None:
        self._uses = Counter((node.op, node.inputs[1]) for node in trace.nodes if node.op in SHARED)
        self._made: dict[tuple[str, str], Step] = {}

    def shares(self, node: Node, arguments: Sequence[Any]) -> bool:
        """Whether the node is a step that shares its second argument with others, and both are what a hub takes."""
        if node.op not in SHARED or self._uses[node.op, node.inputs[1]] < 2:
            return False
        a, b = arguments
        if not tf.is_tensor(b) or b.dtype != tf.float32 or any(map(node.attrs.get, ("transpose_a", "transpose_b"))):
            return False
        rank = SHARED[node.op][0]
        return (len(a.shape), len(b.shape)) == (2, rank) and a.shape[1] == b.shape[0]

    def apply(self, node: Node, a: Tensor, b: Tensor) -> Tensor:
        """The node's output, by its hub."""
        key = (node.op, node.inputs[1])
        if key not in self._made:
            self._made[key] = SHARED[node.op][1](b)
        return self._made[key](a)
