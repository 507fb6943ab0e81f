"""FedNova: devices that make more steps do not pull the model to their own optimum (Wang et al. 2020).

The step is tau_eff sum(p_i d_i) with p_i the share of examples (eq. 6); d_i is the difference over |a_i|_1, how much
gradients count in all of a device's steps together, and tau_eff is sum(p_i |a_i|_1), the mean of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.algorithms.algorithm import Algorithm, without
from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.servers import sgd
from fedfleet.cloud.sums import NOTHING, Sum, Told
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.messages import Plan


@dataclass
class Normalised:
    """The sums of eq. 6, exact: of d_i and of |a_i|_1, each as often as a device has examples."""

    total: Sum
    examples: int = 0
    norms: Fraction = Fraction(0)

    def add(self, delta: Weights, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in; raises FrameError, and changes nothing, where its steps cannot be or it does not fit."""
        norm = accumulated(told.plan, steps(told, examples))
        self.total.add(delta.astype(np.float64) / norm, examples)
        self.examples += examples
        self.norms += Fraction(norm) * examples

    def merge(self, other: Self) -> None:
        """Fold in another one; raises FrameError where the sum could leave int64."""
        self.total.merge(other.total)
        self.examples += other.examples
        self.norms += other.norms

    def value(self) -> NDArray[np.float64]:
        """Return the difference, float64[P]; raises ValueError when nothing was added."""
        if self.examples == 0:
            raise ValueError("the combination of no updates")
        return float(self.norms / self.examples) * (self.total.value() / self.examples)


def steps(told: Told, examples: int) -> int:
    """Return how many steps a device says it made; raises FrameError for more than its plan can have asked for."""
    said, most = told.metrics.get("steps", 0.0), told.plan.steps or told.plan.epochs * examples
    if not (float(said).is_integer() and 1 <= said <= most):
        raise FrameError(f"the update says {said:g} steps; with this plan and {examples} examples it is 1 to {most}")
    return int(said)


def accumulated(plan: Plan, count: int) -> float:
    """Return |a_i|_1 of `count` steps: with momentum, with the proximal term, or of plain SGD, where it is `count`."""
    if rho := plan.momentum:
        return (count - rho * (1 - rho**count) / (1 - rho)) / (1 - rho)
    if shrink := plan.learning_rate * plan.proximal:
        return (1 - (1 - shrink) ** count) / shrink
    return float(count)


def _known(plan: Plan) -> Plan:
    """Section 4 of the paper has an a_i for either term; a proximal step may not be so large that it turns around."""
    without(plan, "fednova", "nesterov", "second_moment", "weight_decay", *(["proximal"] if plan.momentum else []))
    if plan.learning_rate * plan.proximal >= 1:
        raise SettingsError("fednova takes a plan.proximal below 1 / plan.learning_rate; lower one of them")
    return plan


FEDNOVA = Algorithm(_known, sgd, 1.0, lambda _: Rule(lambda parameters: Normalised(Sum.empty(parameters))))
