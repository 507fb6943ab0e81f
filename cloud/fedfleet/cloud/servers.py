"""How the server steps along the combined difference, after Reddi et al. 2021, algorithm 2, where FedAvg is rate 1.

The adaptive ones take the algorithm's names: m = b1 m + (1 - b1) difference, then w + rate m / (sqrt(v) + tau), with v
starting at tau^2; what makes v is all that tells them apart. There is no correction of bias, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedfleet.wire.codecs import Weights

Difference = NDArray[np.float64]
Moments = NDArray[np.float64]
"""The server optimizer's state, float64[moments, P]."""

DECAY, SQUARES, TAU = 0.9, 0.99, 1e-3  # beta 1, beta 2 and tau of Reddi et al. 2021, section 5


class ServerOptimizer(NamedTuple):
    """What each of the moments is before the first step, for every weight, and the step."""

    start: tuple[float, ...]
    step: Callable[[Weights, Difference, Moments], tuple[Weights, Moments]]

    def moments(self, parameters: int) -> Moments:
        """Return the state before the first step, float64[moments, P]."""
        return np.tile(np.array(self.start, np.float64).reshape(-1, 1), parameters)


def sgd(rate: float = 1.0) -> ServerOptimizer:
    """Return the server step w + rate * difference; rate 1 is FedAvg."""

    def step(weights: Weights, difference: Difference, moments: Moments) -> tuple[Weights, Moments]:
        return moved(weights, rate * difference), moments

    return ServerOptimizer((), step)


def momentum(rate: float = 1.0, decay: float = 0.9) -> ServerOptimizer:
    """Return the server step of FedAvgM (Hsu et al. 2019, eq. 2): v = decay v + difference, w + rate v."""

    def step(weights: Weights, difference: Difference, moments: Moments) -> tuple[Weights, Moments]:
        velocity = decay * moments[0] + difference
        return moved(weights, rate * velocity), velocity[np.newaxis]

    return ServerOptimizer((0.0,), step)


def adagrad(rate: float) -> ServerOptimizer:
    """Return the server step of FedAdagrad: v + difference^2, and b1 = 0, as in the paper's experiments."""

    def step(weights: Weights, difference: Difference, moments: Moments) -> tuple[Weights, Moments]:
        squares = moments[0] + difference**2
        return moved(weights, rate * difference / (np.sqrt(squares) + TAU)), squares[np.newaxis]

    return ServerOptimizer((TAU**2,), step)


def adam(rate: float) -> ServerOptimizer:
    """Return the server step of FedAdam: v = b2 v + (1 - b2) difference^2."""
    return _adaptive(rate, lambda v, square: SQUARES * v + (1 - SQUARES) * square)


def yogi(rate: float) -> ServerOptimizer:
    """Return the server step of FedYogi: v - (1 - b2) difference^2 sign(v - difference^2)."""
    return _adaptive(rate, lambda v, square: v - (1 - SQUARES) * square * np.sign(v - square))


def _adaptive(rate: float, squared: Callable[[Difference, Difference], Difference]) -> ServerOptimizer:
    def step(weights: Weights, difference: Difference, moments: Moments) -> tuple[Weights, Moments]:
        mean = DECAY * moments[0] + (1 - DECAY) * difference
        squares = squared(moments[1], difference**2)
        return moved(weights, rate * mean / (np.sqrt(squares) + TAU)), np.stack([mean, squares])

    return ServerOptimizer((0.0, TAU**2), step)


def moved(weights: Weights, way: Difference) -> Weights:
    """Return weights + way, summed in float64."""
    return (weights.astype(np.float64) + way).astype(np.float32)
