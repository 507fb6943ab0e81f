"""What a step does with the gradient g at weights w: SGD with momentum in `train`, and in `adapt` all that there is.

    g <- g + proximal (w - anchor)            FedProx, Li et al. 2020, eq. 2; the anchor is w as the round began
    g <- g + correction                       SCAFFOLD, Karimireddy et al. 2020, eq. 3
    g <- g min(1, clip_norm / |g|)            over all weights at once; 0 means no bound
    m <- momentum m + g                       the step is m, or with `nesterov` g + momentum m
    w <- w - learning_rate (step + weight_decay w)      decoupled decay, Loshchilov and Hutter 2019, algorithm 1

With `second_moment` above 0 the step is Adam's (Kingma and Ba 2015, section 2, the second form): that decays the
second moment, `momentum` the first, epsilon is 1e-7. Every pass over the weights costs time, so `train` has nothing but
SGD; with both of its scalars at 0 it moves nothing and leaves the gradient in `momentum`, where `adapt` takes it up.
A board has memory only for the state that its plans have used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from fedfleet.models.compiled import Entry

Tensor = Any
Tensors = Sequence[Tensor]
Plan = Mapping[str, Tensor]
Effect = Callable[[], None]
Change = Callable[[Tensor], Tensor]
EPSILON = 1e-7


class State(tf.Module):  # type: ignore[misc]
    """The weights and the momentum tensor by tensor, as a step wants them; what few plans use, flat."""

    def __init__(self, layout: Sequence[Entry]) -> None:
        super().__init__()
        self.layout = layout
        self.weights, self.momentum = ([tf.Variable(tf.zeros(e.shape)) for e in layout] for _ in range(2))
        count = sum(entry.size for entry in layout)
        self.first, self.second, self.anchor, self.correction = (tf.Variable(tf.zeros([count])) for _ in range(4))
        self.begun, self.corrected = (tf.Variable(tf.zeros([1])) for _ in range(2))
        self.faded = tf.Variable(tf.zeros([2]))

    def set(self, weights: Tensor) -> None:
        """Starts a round from flat weights."""
        parts = split(weights, self.layout)
        _assign(self.weights, parts)
        # zeros computed from the argument: as a constant they would make the file as large as the weights
        _assign(self.momentum, [_zeros(part) for part in parts])
        self.begun.assign(tf.zeros([1]))
        self.corrected.assign(tf.zeros([1]))
        self.faded.assign(tf.ones([2]))

    def correct(self, correction: Tensor) -> None:
        """Adds a flat correction to every gradient until the next `set`."""
        self.correction.assign(correction)
        self.corrected.assign(tf.ones([1]))

    def read(self) -> list[Tensor]:
        """The weights, tensor by tensor."""
        return [variable.read_value() for variable in self.weights]


def split(weights: Tensor, layout: Sequence[Entry]) -> list[Tensor]:
    """The tensors inside the flat weights."""
    return [tf.reshape(weights[e.offset : e.offset + e.size], e.shape) for e in layout]


def join(tensors: Tensors) -> Tensor:
    """One flat vector of all tensors."""
    flat = [tf.reshape(t, [-1]) for t in tensors]
    return tf.concat(flat, 0) if len(flat) > 1 else flat[0]


def descend(state: State, weights: Tensors, gradients: Tensors, learning_rate: Tensor, momentum: Tensor) -> None:
    """SGD with momentum."""
    steps = [momentum * m.read_value() + g for m, g in zip(state.momentum, gradients)]
    _assign(state.momentum, steps)
    _assign(state.weights, [w - learning_rate * step for w, step in zip(weights, steps)])


def adapt(state: State, plan: Plan) -> None:
    """The whole rule over flat vectors, on the gradient that `descend` left; `plan` has all SCALARS as float32 [1]."""
    weights = join(state.read())
    gradient = join([variable.read_value() for variable in state.momentum])

    def pulled(g: Tensor) -> Tensor:
        return g + plan["proximal"] * (weights - state.anchor.read_value())

    def corrected(g: Tensor) -> Tensor:
        return g + state.correction.read_value()

    def clipped(g: Tensor) -> Tensor:
        norm = tf.sqrt(tf.reduce_sum(g * g, keepdims=True))
        return g * tf.minimum(1.0, plan["clip_norm"] / tf.maximum(norm, 1e-30))

    fresh = 1.0 - state.begun.read_value()
    _if(fresh, lambda: state.first.assign(_zeros(weights)))
    _if(fresh * plan["proximal"], lambda: state.anchor.assign(weights))
    _if(fresh * plan["second_moment"], lambda: state.second.assign(_zeros(weights)))
    state.begun.assign(tf.ones([1]))
    gradient = _where(plan["proximal"], pulled, _same, gradient)
    gradient = _where(state.corrected.read_value(), corrected, _same, gradient)
    gradient = _where(plan["clip_norm"], clipped, _same, gradient)
    rule = _where(plan["second_moment"], lambda g: _adam(state, g, plan), lambda g: _sgd(state, g, plan), gradient)
    kept = 1.0 - plan["learning_rate"] * plan["weight_decay"]
    _assign(state.weights, split(kept * weights - plan["learning_rate"] * rule, state.layout))


def _sgd(state: State, gradient: Tensor, plan: Plan) -> Tensor:
    """The step of SGD with momentum, Nesterov's where asked for."""
    momentum = plan["momentum"] * state.first.read_value() + gradient
    state.first.assign(momentum)
    return momentum + plan["nesterov"] * (gradient + plan["momentum"] * momentum - momentum)


def _adam(state: State, gradient: Tensor, plan: Plan) -> Tensor:
    """The step of Adam; the powers of the decays are kept as running products, the same numbers on every machine."""
    decays = tf.concat([plan["momentum"], plan["second_moment"]], 0)
    faded = decays * state.faded.read_value()
    first = decays[:1] * state.first.read_value() + (1.0 - decays[:1]) * gradient
    second = decays[1:] * state.second.read_value() + (1.0 - decays[1:]) * (gradient * gradient)
    state.faded.assign(faded)
    state.first.assign(first)
    state.second.assign(second)
    return tf.sqrt(1.0 - faded[1:]) / (1.0 - faded[:1]) * first / (tf.sqrt(second) + EPSILON)


def _if(flag: Tensor, work: Effect) -> None:
    """Does `work` to variables where flag [1] is above 0."""

    def done(work: Effect) -> Tensor:
        work()
        return tf.ones([1])

    tf.cond(tf.reshape(flag, []) > 0.0, lambda: done(work), lambda: tf.ones([1]))


def _where(flag: Tensor, yes: Change, no: Change, value: Tensor) -> Tensor:
    """What `yes` makes of the value where flag [1] is above 0, else what `no` does."""
    return tf.cond(tf.reshape(flag, []) > 0.0, lambda: yes(value), lambda: no(value))


def _same(value: Tensor) -> Tensor:
    return value


def _zeros(values: Tensor) -> Tensor:
    return tf.minimum(tf.abs(values), 0.0)


def _assign(variables: Sequence[Any], values: Tensors) -> None:
    for variable, value in zip(variables, values):
        # what is computed with a scalar of shape [1] has an axis more than a weight without any
        variable.assign(tf.reshape(value, variable.shape))
