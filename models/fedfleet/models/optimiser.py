"""What a step does with the gradient g at weights w: SGD, momentum, Nesterov or Adam, the plan's terms in between.

    g <- g + proximal (w - anchor)            FedProx, Li et al. 2020, eq. 2; the anchor is w as the round began
    g <- g + correction                       SCAFFOLD, Karimireddy et al. 2020, eq. 3
    g <- g min(1, clip_norm / |g|)            over all weights at once; 0 means no bound
    m <- momentum m + g                       the step is m, or with `nesterov` g + momentum m
    w <- w - learning_rate (step + weight_decay w)      decoupled decay, Loshchilov and Hutter 2019, algorithm 1

With `second_moment` above 0 the step is Adam's (Kingma and Ba 2015, section 2, the second form): that decays the
second moment, `momentum` the first, epsilon is 1e-7. Every pass over the weights costs time, so SGD with momentum alone
has a branch of its own; and a board has memory only for the state that its plans have used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from fedfleet.models.compiled import Entry
from fedfleet.wire.messages import SCALARS

Tensor = Any
Plan = Mapping[str, Tensor]
Effect = Callable[[], None]
EXTRAS = SCALARS[2:]
EPSILON = 1e-7


class State(tf.Module):  # type: ignore[misc]
    """The weights and the momentum tensor by tensor, as a step wants them; what few plans use, flat."""

    def __init__(self, layout: Sequence[Entry]) -> None:
        super().__init__()
        self.layout = layout
        self.weights, self.momentum = ([tf.Variable(tf.zeros(e.shape)) for e in layout] for _ in range(2))
        count = sum(entry.size for entry in layout)
        self.anchor, self.second, self.correction = (tf.Variable(tf.zeros([count])) for _ in range(3))
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

    def step(self, gradients: Sequence[Tensor], plan: Plan) -> None:
        """One update; `plan` has every one of SCALARS as float32 [1]."""
        extras = sum((plan[name] for name in EXTRAS), self.corrected.read_value())
        _if(extras, lambda: _general(self, join(gradients), plan), lambda: _plain(self, gradients, plan))
        self.begun.assign(tf.ones([1]))


def split(weights: Tensor, layout: Sequence[Entry]) -> list[Tensor]:
    """The tensors inside the flat weights."""
    return [tf.reshape(weights[e.offset : e.offset + e.size], e.shape) for e in layout]


def join(tensors: Sequence[Tensor]) -> Tensor:
    """One flat vector of all tensors."""
    flat = [tf.reshape(t, [-1]) for t in tensors]
    return tf.concat(flat, 0) if len(flat) > 1 else flat[0]


def _plain(state: State, gradients: Sequence[Tensor], plan: Plan) -> None:
    """SGD with momentum."""
    for variable, momentum, gradient in zip(state.weights, state.momentum, gradients):
        step = plan["momentum"] * momentum.read_value() + gradient
        momentum.assign(step)
        variable.assign(variable.read_value() - plan["learning_rate"] * step)


def _general(state: State, gradient: Tensor, plan: Plan) -> None:
    """Every rule and term there is, over flat vectors."""
    weights = join(state.read())

    def pulled(g: Tensor) -> Tensor:
        return g + plan["proximal"] * (weights - state.anchor.read_value())

    def clipped(g: Tensor) -> Tensor:
        norm = tf.sqrt(tf.reduce_sum(g * g, keepdims=True))
        return g * tf.minimum(1.0, plan["clip_norm"] / tf.maximum(norm, 1e-30))

    first = 1.0 - state.begun.read_value()
    _if(first * plan["proximal"], lambda: state.anchor.assign(weights))
    _if(first * plan["second_moment"], lambda: state.second.assign(_zeros(weights)))
    gradient = _where(plan["proximal"], pulled, gradient)
    gradient = _where(state.corrected.read_value(), lambda g: g + state.correction.read_value(), gradient)
    gradient = _where(plan["clip_norm"], clipped, gradient)
    before = join([variable.read_value() for variable in state.momentum])
    _if(
        plan["second_moment"],
        lambda: _adam(state, weights, before, gradient, plan),
        lambda: _momentum(state, weights, before, gradient, plan),
    )


def _momentum(state: State, weights: Tensor, before: Tensor, gradient: Tensor, plan: Plan) -> None:
    """SGD with momentum, Nesterov's where asked for."""
    momentum = plan["momentum"] * before + gradient
    ahead = gradient + plan["momentum"] * momentum
    _descend(state, weights, momentum, momentum + plan["nesterov"] * (ahead - momentum), plan)


def _adam(state: State, weights: Tensor, before: Tensor, gradient: Tensor, plan: Plan) -> None:
    """Adam; the powers of the decays are kept as running products, the same numbers on every machine."""
    decays = tf.concat([plan["momentum"], plan["second_moment"]], 0)
    faded = decays * state.faded.read_value()
    state.faded.assign(faded)
    first = decays[:1] * before + (1.0 - decays[:1]) * gradient
    second = decays[1:] * state.second.read_value() + (1.0 - decays[1:]) * (gradient * gradient)
    state.second.assign(second)
    scale = tf.sqrt(1.0 - faded[1:]) / (1.0 - faded[:1])
    _descend(state, weights, first, scale * first / (tf.sqrt(second) + EPSILON), plan)


def _descend(state: State, weights: Tensor, momentum: Tensor, step: Tensor, plan: Plan) -> None:
    _assign(state.momentum, split(momentum, state.layout))
    step = step + plan["weight_decay"] * weights
    _assign(state.weights, split(weights - plan["learning_rate"] * step, state.layout))


def _if(flag: Tensor, yes: Effect, no: Effect = lambda: None) -> None:
    """Runs `yes` where flag [1] is above 0, else `no`, for what they do to variables."""

    def done(work: Effect) -> Tensor:
        work()
        return tf.ones([1])

    tf.cond(tf.reshape(flag, []) > 0.0, lambda: done(yes), lambda: done(no))


def _where(flag: Tensor, change: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """`value`, changed where flag [1] is above 0."""
    return tf.cond(tf.reshape(flag, []) > 0.0, lambda: change(value), lambda: value)


def _zeros(values: Tensor) -> Tensor:
    return tf.minimum(tf.abs(values), 0.0)


def _assign(variables: Sequence[Any], values: Sequence[Tensor]) -> None:
    for variable, value in zip(variables, values):
        variable.assign(value)
