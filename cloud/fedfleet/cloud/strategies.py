"""Strategies as values: what the client does (`Plan`), how updates are combined, how the server steps.

A new strategy is one line in `STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.sums import Aggregate, Mean
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan

Moments = NDArray[np.float64]
"""The server optimizer's state, float64[moments, P]."""


class ServerOptimizer(NamedTuple):
    """How the server steps along the combined difference, after Reddi et al. 2021, algorithm 2."""

    moments: int
    step: Callable[[Weights, NDArray[np.float64], Moments], tuple[Weights, Moments]]


class Strategy(NamedTuple):
    """A federated algorithm: the plan it gives devices, an empty aggregate for P weights, the server's step."""

    plan: Callable[[Plan], Plan]
    aggregate: Callable[[int], Aggregate]
    server: ServerOptimizer


def sgd(rate: float = 1.0) -> ServerOptimizer:
    """Return the server step w + rate * difference; rate 1 is FedAvg."""

    def step(weights: Weights, difference: NDArray[np.float64], moments: Moments) -> tuple[Weights, Moments]:
        return (weights.astype(np.float64) + rate * difference).astype(np.float32), moments

    return ServerOptimizer(0, step)


def momentum(rate: float = 1.0, decay: float = 0.9) -> ServerOptimizer:
    """Return the server step of FedAvgM (Hsu et al. 2019, eq. 2): v = decay v + difference, w + rate v."""

    def step(weights: Weights, difference: NDArray[np.float64], moments: Moments) -> tuple[Weights, Moments]:
        velocity = decay * moments[0] + difference
        return (weights.astype(np.float64) + rate * velocity).astype(np.float32), velocity[np.newaxis]

    return ServerOptimizer(1, step)


def _as_given(plan: Plan) -> Plan:
    return plan


def _proximal(plan: Plan) -> Plan:
    """FedProx (Li et al. 2020): keep local models near the global one, by mu 0.01 where the plan names none."""
    return replace(plan, proximal=plan.proximal or 0.01)


STRATEGIES = {
    "fedavg": Strategy(_as_given, Mean.empty, sgd()),
    "fedavgm": Strategy(_as_given, Mean.empty, momentum()),
    "fedprox": Strategy(_proximal, Mean.empty, sgd()),
}


def strategy(name: str) -> Strategy:
    """Return the strategy called `name`; raises SettingsError that lists the known ones."""
    if name not in STRATEGIES:
        raise SettingsError(f"unknown strategy {name[:32]!r}; known: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
