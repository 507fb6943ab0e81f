"""Operations that move numbers and leave them as they are: reshape, transpose, join, cut, pad and repeat.

TensorFlow's gradients of slices and joins are no LiteRT builtins, or hide sizes behind run-time shapes; these are cut
and padded with the sizes known while compiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.trace import Node

Tensor = Any


def concatenate(_node: Node, *inputs: Any) -> Tensor:
    """ConcatV2: the last input is the axis."""
    return join(inputs[:-1], int(inputs[-1]))


def join(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors one after another along `axis`."""

    @custom_gradient
    def apply(*parts: Tensor) -> tuple[Tensor, Any]:
        sizes = [part.shape[axis] for part in parts]
        return tf.concat(parts, axis), lambda g: tf.split(g, sizes, axis)

    return apply(*tensors)
