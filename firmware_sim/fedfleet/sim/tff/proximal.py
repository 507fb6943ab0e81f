"""A client's optimizer with the proximal term of Li et al. 2020, eq. 2: TFF's own FedProx has it the wrong way round.

In TFF 0.87, learning/templates/proximal_client_work.py adds mu (anchor - w) to the gradient: that drives clients away.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

Tensors = Any
State = Any


class Proximal(tff.learning.optimizers.Optimizer):  # type: ignore[misc]
    """The step of `of` by gradients to which mu (w - anchor) was added; the anchor is w at the first step."""

    def __init__(self, of: Any, mu: float) -> None:
        self._of = of
        self._mu = mu

    def initialize(self, specs: Tensors) -> State:
        """No anchor yet."""
        anchor = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
        return OrderedDict(of=self._of.initialize(specs), anchor=anchor, held=0.0)

    def next(self, state: State, weights: Tensors, gradients: Tensors) -> tuple[State, Tensors]:
        """The step, and the anchor, which the first one takes."""
        held = state["held"]
        anchor = tf.nest.map_structure(lambda a, w: tf.where(held > 0, a, w), state["anchor"], weights)
        pulled = tf.nest.map_structure(lambda g, w, a: g + self._mu * (w - a), gradients, weights, anchor)
        after, moved = self._of.next(state["of"], weights, pulled)
        return OrderedDict(of=after, anchor=anchor, held=tf.ones_like(held)), moved
