"""SCAFFOLD: the drift of each device is taken out of its steps (Karimireddy et al. 2020, algorithm 1, option II).

Devices count alike, as in the paper, not by examples: x + rate mean(delta), c + sum(change of c_i) / N (lines 16, 17).
The moments hold the sum of all c_i, so c is that over N, the number of devices that have contributed so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.algorithms.algorithm import Algorithm, without
from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.servers import Difference, Moments, ServerOptimizer, moved
from fedfleet.cloud.sums import NOTHING, SCALE_BITS, Mean, Told
from fedfleet.wire.codecs import Weights
from fedfleet.wire.messages import Plan


@dataclass
class Both:
    """Of vectors of two halves, as devices send them: the plain mean of the first, the sum of the second."""

    mean: Mean

    def add(self, delta: Weights, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in; raises FrameError, and changes nothing, where the sum could leave int64."""
        self.mean.add(delta, 1)

    def merge(self, other: Self) -> None:
        """Fold in another one."""
        self.mean.merge(other.mean)

    def value(self) -> NDArray[np.float64]:
        """Return mean and sum, float64[2P]; raises ValueError when nothing was added."""
        half = self.mean.total.size // 2
        return np.concatenate([self.mean.value()[:half], self.mean.total[half:] / 2.0**SCALE_BITS])


def server(rate: float) -> ServerOptimizer:
    """Return the server step of SCAFFOLD; its moment is the sum of all devices' control variates."""

    def step(weights: Weights, difference: Difference, moments: Moments) -> tuple[Weights, Moments]:
        way, change = np.split(difference, 2)
        return moved(weights, rate * way), moments + change

    return ServerOptimizer((0.0,), step)


def control(moments: Moments, devices: int) -> Weights:
    """Return the server's control variate: the mean of those of `devices` devices."""
    return np.asarray(moments[0] / max(devices, 1), np.float32)


def _plain(plan: Plan) -> Plan:
    """Line 12 finds the mean gradient in how far plain SGD has moved the weights, and in nothing else."""
    keys = ("momentum", "nesterov", "second_moment", "weight_decay", "proximal", "clip_norm")
    return without(plan, "scaffold", *keys)


SCAFFOLD = Algorithm(_plain, server, 1.0, lambda _: Rule(lambda values: Both(Mean.empty(values))), control)
