"""q-FedAvg: devices that the model serves badly count more (q-FFL; Li et al. 2020, algorithm 2).

With F_k the mean loss on device k's examples before the round, and L = 1 / learning rate, the step is the sum of
F_k^q delta_k over that of F_k^q + q F_k^(q-1) L |delta_k|^2. Devices count alike but for their loss; q 0 would be their
plain mean. A loss below 1e-10 counts as that, as in the authors' program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.algorithms.algorithm import Algorithm
from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.servers import sgd
from fedfleet.cloud.sums import NOTHING, Sum, Told
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Plan

LEAST = 1e-10
HEAVIEST = 2.0**20  # what one device may count, where the model itself is at a loss of 1


@dataclass
class Fair:
    """The sums of algorithm 2, exact."""

    q: float
    total: Sum
    slope: Fraction = Fraction(0)

    def add(self, delta: Weights, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in; raises FrameError, and changes nothing, where its loss cannot be or it does not fit."""
        found = loss(told)
        if self.q * math.log(found) > math.log(HEAVIEST):
            raise FrameError(f"the loss {found:g} to the power {self.q:g} is above {HEAVIEST:g}; use a smaller q")
        wide, weight = delta.astype(np.float64), found**self.q
        curve = self.q * found ** (self.q - 1) * float(np.square(wide).sum()) / told.plan.learning_rate
        self.total.add(weight * wide)
        self.slope += Fraction(weight) + Fraction(curve)

    def merge(self, other: Self) -> None:
        """Fold in another one of the same q; raises FrameError where the sum could leave int64."""
        self.total.merge(other.total)
        self.slope += other.slope

    def value(self) -> NDArray[np.float64]:
        """Return the difference, float64[P]; raises ValueError when nothing was added."""
        if self.slope == 0:
            raise ValueError("the combination of no updates")
        return self.total.value() / float(self.slope)


def loss(told: Told) -> float:
    """Return the loss that a device says it began with; raises FrameError where it says none, or what is none."""
    said = told.metrics.get("before", math.nan)
    if not 0 <= said < math.inf:
        raise FrameError(f"the update says no loss from before training, but before={said:g}; upgrade the agent")
    return max(said, LEAST)


def _asking(plan: Plan) -> Plan:
    """Have devices say the loss that they begin with."""
    return replace(plan, before=True)


QFEDAVG = Algorithm(
    _asking,
    lambda _: sgd(),
    1.0,
    lambda q: Rule(lambda parameters: Fair(q, Sum.empty(parameters))),
    called="q",
    most=10.0,
)
