"""Optimizers of TFF by the names of our algorithms: its own as they are, and those that step as our servers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from fedfleet.cloud.servers import DECAY, SQUARES, TAU

Tensors = Any
State = Any
PREFIX = "tff."
RATE, STEP, SEEN = "learning_rate", "step", "preconditioner"
build = tff.learning.optimizers


class Uncorrected(tff.learning.optimizers.Optimizer):  # type: ignore[misc]
    """TFF's Adam or Yogi as in Reddi et al. 2021, algorithm 2: v starts at tau^2, and nothing is corrected for bias.

    The correction is undone by the rate of each step; what is left of it is rounding.
    """

    def __init__(self, of: Any, rate: float) -> None:
        self._of = of
        self._rate = rate

    def initialize(self, specs: Tensors) -> State:
        """TFF's own state, but for v."""
        state = self._of.initialize(specs)
        state[SEEN] = tf.nest.map_structure(lambda spec: tf.fill(spec.shape, tf.cast(TAU**2, spec.dtype)), specs)
        return state

    def next(self, state: State, weights: Tensors, gradients: Tensors) -> tuple[State, Tensors]:
        """TFF's own step at a rate without the correction."""
        count = tf.cast(state[STEP] + 1, tf.float32)
        undone = (1.0 - tf.pow(DECAY, count)) / tf.sqrt(1.0 - tf.pow(SQUARES, count))
        after, moved = self._of.next(type(state)(state, **{RATE: self._rate * undone}), weights, gradients)
        after[RATE] = tf.convert_to_tensor(state[RATE])
        return after, moved


class Adagrad(tff.learning.optimizers.Optimizer):  # type: ignore[misc]
    """FedAdagrad of Reddi et al. 2021, algorithm 2: TFF's own has its epsilon under the root, the paper beside it."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def initialize(self, specs: Tensors) -> State:
        """The squares that v starts from: tau^2."""
        return tf.nest.map_structure(lambda spec: tf.fill(spec.shape, tf.cast(TAU**2, spec.dtype)), specs)

    def next(self, state: State, weights: Tensors, gradients: Tensors) -> tuple[State, Tensors]:
        """v + g^2, w - rate g / (sqrt(v) + tau)."""
        squares = tf.nest.map_structure(lambda v, g: v + tf.square(g), state, gradients)
        moved = tf.nest.map_structure(
            lambda w, v, g: w - self._rate * g / (tf.sqrt(v) + TAU), weights, squares, gradients
        )
        return squares, moved


OURS: dict[str, Callable[[float], Any]] = {
    "fedavg": build.build_sgdm,
    "fedprox": build.build_sgdm,
    "fedavgm": lambda rate: build.build_sgdm(rate, DECAY),
    "fedadam": lambda rate: Uncorrected(build.build_adam(rate, DECAY, SQUARES, TAU), rate),
    "fedyogi": lambda rate: Uncorrected(build.build_yogi(rate, DECAY, SQUARES, TAU), rate),
    "fedadagrad": Adagrad,
}


def optimizer(algorithm: str, rate: float) -> Any:
    """Return the server's optimizer for `algorithm`: `tff.NAME` is TFF's own with its defaults."""
    if algorithm.startswith(PREFIX):
        return getattr(build, f"build_{algorithm.removeprefix(PREFIX)}")(rate)
    return OURS[algorithm](rate)
