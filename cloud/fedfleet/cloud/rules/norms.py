"""Bounds on how far one update may move the model: clipped to it (Sun et al. 2019, section 5), or not counted.

Both stay exact sums, weighted by examples: an update is changed or refused by itself, before it is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.sums import NOTHING, Mean, Told
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError


@dataclass
class Bounded:
    """A mean of updates that `bound` has changed; it raises FrameError for those that do not count."""

    mean: Mean
    bound: Callable[[Weights], Weights]

    def add(self, delta: Weights, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in as far as it goes; raises FrameError, and changes nothing, where it may not count."""
        self.mean.add(self.bound(delta), examples)

    def merge(self, other: Self) -> None:
        """Fold in another one under the same bound."""
        self.mean.merge(other.mean)

    def value(self) -> NDArray[np.float64]:
        """Return the mean, float64[P]; raises ValueError when nothing was added."""
        return self.mean.value()


def clip(norm: float) -> Rule:
    """Return the rule of the mean of delta / max(1, |delta| / norm)."""

    def bound(delta: Weights) -> Weights:
        wide = delta.astype(np.float64)
        return (wide / max(1.0, length(wide) / norm)).astype(np.float32)

    return _bounded(bound)


def filtered(norm: float) -> Rule:
    """Return the rule of the mean of the updates no longer than `norm`; others are refused, and their devices told."""

    def bound(delta: Weights) -> Weights:
        found = length(delta.astype(np.float64))
        if found > norm:
            raise FrameError(f"the update's norm {found:g} is above {norm:g}; train for less, or raise filter's bound")
        return delta

    return _bounded(bound)


def length(delta: NDArray[np.float64]) -> float:
    """Return the Euclidean norm."""
    return float(np.sqrt(np.square(delta).sum()))


def _bounded(bound: Callable[[Weights], Weights]) -> Rule:
    return Rule(lambda parameters: Bounded(Mean.empty(parameters), bound))
