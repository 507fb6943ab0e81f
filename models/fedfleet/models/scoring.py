"""A Keras model's loss and metric by its device program's definitions, as a TensorFlow function of flat weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fedfleet.models import compiler
from fedfleet.models.compiled import Compiled
from fedfleet.models.int8 import rounded
from fedfleet.models.losses import LOSSES
from fedfleet.models.ops import replay
from fedfleet.models.program import counted

Tensor = Any


def summed(model: Any, compiled: Compiled, batch: int) -> Callable[..., Tensor]:
    """Return what makes both sums, float64[2], of weights as `compiled` lays them out, and a batch's x, y and weight.

    Nothing is kept between calls, so any number of weights can be scored at once. ModelError for another model.
    """
    compiler.assign(model, compiled.layout, compiled.weights)
    with rounded(model, compiled.frozen):
        traced = compiler.forward(model, batch, compiled.layout)
    loss = LOSSES[compiled.loss]
    outcome = counted(traced, loss)

    def sums(weights: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        parts = [tf.reshape(weights[e.offset : e.offset + e.size], e.shape) for e in compiled.layout]
        output = replay(traced, x, parts)[outcome]
        each = tf.stack([loss.each(output, y), loss.score(output, y)])
        return tf.reduce_sum(tf.cast(each, tf.float64) * tf.cast(weight, tf.float64), 1)

    return sums
