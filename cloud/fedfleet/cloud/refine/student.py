"""A program's Keras model on all replicas of a strategy: what it gives for weights, and steps that move them.

All of it runs as on a device: layers that drop out, or collect statistics while they train, do neither. So nothing
here is drawn by chance, and on one device of a CPU the same input gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfleet.cloud.refine.plan import Rows
from fedfleet.cloud.replicas import mirrored
from fedfleet.models.compiled import Compiled, arranged
from fedfleet.models.compiler import assign, flatten, shapes
from fedfleet.models.int8 import rounded
from fedfleet.models.losses import LOSSES
from fedfleet.models.program import counted
from fedfleet.models.rewrite import simplify
from fedfleet.models.runtime import interpreter
from fedfleet.models.trace import trace, variable
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import ModelError

Tensor = Any
Each = Callable[[Tensor, Tensor], Tensor]
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # of Adam, as its authors have them
CHUNK = 1024  # rows for a replica in one forward pass
COMPARED = 8  # rows on which the model is held against the program
CLOSE = 1e-3  # of the largest output
LEAST = 1e-30  # a probability that has a logarithm in float32
REMEDY = "name the model that was compiled"
NEXT = 1e-7  # how near to 1 a probability is told from it


class Student:
    """The model that `build` makes, which must be that of `compiled`; its steps lessen the mean of `each` over rows.

    `each` takes what the program's loss looks at, float32[B, ...], and targets of B rows.
    """

    def __init__(self, compiled: Compiled, build: Callable[[], Any], each: Each, replicas: int = 0) -> None:
        """Build it once on each replica. Raises ModelError, SettingsError."""
        self._strategy = mirrored(replicas)  # before anything is computed
        plain = build()
        ours, theirs = (
            f"takes {list(inside)} and gives {list(outside)}"
            for inside, outside in (shapes(plain), (compiled.input_shape, compiled.output_shape))
        )
        if ours != theirs:
            raise ModelError(f"the model {ours}, the program {theirs}; {REMEDY}")
        if not all(entry.shared for entry in compiled.layout):
            raise ModelError("a program with local layers cannot be refined: the cloud does not have them")
        self._compiled = compiled
        self._each = each
        self._finish = _finish(plain, compiled.loss)
        with self._strategy.scope():
            self._model = build()
            self._variables = [variable(weight) for weight in self._model.trainable_weights]
            self._moments = [[tf.Variable(tf.zeros(v.shape)) for v in self._variables] for _ in range(2)]
        self._load(compiled.weights)
        self._forward = tf.function(lambda x: self._strategy.run(self._raw, (x,)), autograph=False)
        self._step = tf.function(self._stepped, autograph=False)

    @property
    def replicas(self) -> int:
        """On how many devices it runs."""
        return int(self._strategy.num_replicas_in_sync)

    def require(self, x: NDArray[np.float32]) -> None:
        """Raise ModelError unless the model gives what the program gives for the same weights and rows of `x`."""
        runner = interpreter(self._compiled.program)
        runner.get_signature_runner("set")(weights=self._compiled.weights)
        infer = runner.get_signature_runner("infer")
        theirs = np.concatenate([infer(x=row[None])["output"] for row in x[:COMPARED]])
        ours = self.outputs(self._compiled.weights, x[:COMPARED])
        if not np.allclose(ours, theirs, rtol=CLOSE, atol=CLOSE * float(np.abs(theirs).max())):
            raise ModelError(f"the model is not the program's: it gives something else for the same weights; {REMEDY}")

    def outputs(self, weights: Weights, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the model gives for `x` with these weights, float32[N, ...]."""
        size = CHUNK * self.replicas
        with rounded(self._model, self._compiled.frozen):
            self._load(weights)
            parts = [self._given(x[start : start + size]) for start in range(0, len(x), size)]
        return np.concatenate(parts)

    def logits(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the program's loss looks at in `outputs`: those, or the logits behind probabilities."""
        return np.asarray(self._finish(tf.constant(outputs)))

    def fit(
        self, weights: Weights, x: NDArray[np.float32], target: NDArray[Any], steps: Iterable[Rows], rates: list[float]
    ) -> Weights:
        """Return `weights` after a step of Adam on each of the row numbers in `steps`, at those rates.

        Kingma and Ba 2015, algorithm 1; the moments begin with zeros.
        """
        with rounded(self._model, self._compiled.frozen):
            self._load(weights)
            for moment in (moment for kind in self._moments for moment in kind):
                moment.assign(tf.zeros(moment.shape))
            for number, (rows, rate) in enumerate(zip(steps, rates), 1):
                mean = np.full(len(rows), 1 / len(rows), np.float32)
                shares = [self._dealt(values) for values in (x[rows], target[rows], mean)]
                scale = rate * math.sqrt(1 - SECOND**number) / (1 - FIRST**number)
                tiny = TINY * math.sqrt(1 - SECOND**number)
                self._step(*shares, tf.constant(scale, tf.float32), tf.constant(tiny, tf.float32))
            return arranged(flatten(self._model), self._compiled.layout)

    def _load(self, weights: Weights) -> None:
        assign(self._model, self._compiled.layout, weights)

    def _raw(self, x: Tensor) -> Tensor:
        return self._model(x, training=False)

    def _given(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = self._strategy.experimental_local_results(self._forward(self._dealt(x)))
        return np.concatenate([part.numpy() for part in parts])[: len(x)]

    def _dealt(self, values: NDArray[Any]) -> Tensor:
        """Rows for each replica, as many for each: zeros make up for what is missing."""
        share = -(-len(values) // self.replicas)
        whole = np.pad(values, [(0, share * self.replicas - len(values))] + [(0, 0)] * (values.ndim - 1))

        def part(context: Any) -> Tensor:
            start = context.replica_id_in_sync_group * share
            return tf.constant(whole[start : start + share])

        return self._strategy.experimental_distribute_values_from_function(part)

    def _gradients(self, x: Tensor, target: Tensor, share: Tensor) -> list[Tensor]:
        """A replica's part of the gradient of the mean: its rows, each by its share in all."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self._each(self._finish(self._raw(x)), target) * share)
        found = tape.gradient(loss, self._variables, unconnected_gradients="zero")
        return [tf.convert_to_tensor(gradient) for gradient in found]  # of embeddings they are slices

    def _stepped(self, x: Tensor, target: Tensor, share: Tensor, scale: Tensor, tiny: Tensor) -> None:
        found = self._strategy.run(self._gradients, (x, target, share))
        extended = self._strategy.extended
        summed = extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, list(zip(found, self._variables)))
        for weight, gradient, first, second in zip(self._variables, summed, *self._moments):
            extended.update(weight, _adam, (gradient, first, second, scale, tiny))


def halving(rate: float, steps: int) -> list[float]:
    """Return the rate of each step: it falls from `rate` to 0 by half a cosine (Loshchilov and Hutter 2017, eq. 5)."""
    return [rate * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]


def _adam(weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, tiny: Tensor) -> None:
    """One step of a weight. `scale` and `tiny` have both corrections of the moments in them (section 2, at its end)."""
    first.assign(FIRST * first + (1 - FIRST) * gradient)
    second.assign(SECOND * second + (1 - SECOND) * tf.square(gradient))
    weight.assign_sub(scale * first / (tf.sqrt(second) + tiny))


def _finish(model: Any, loss: str) -> Callable[[Tensor], Tensor]:
    """What turns the model's output into what the loss looks at: logits, where probabilities end the model."""
    traced = simplify(trace(model, 1))
    if counted(traced, LOSSES[loss]) == traced.output:
        return lambda output: output
    return {"Softmax": _softmax_logits, "Sigmoid": _sigmoid_logits}[str(LOSSES[loss].final)]


def _softmax_logits(p: Tensor) -> Tensor:
    """Logits up to a constant for each row, which neither softmax nor a mean of logits is changed by."""
    return tf.math.log(tf.maximum(p, LEAST))


def _sigmoid_logits(p: Tensor) -> Tensor:
    p = tf.clip_by_value(p, NEXT, 1 - NEXT)
    return tf.math.log(p) - tf.math.log(1 - p)
