"""Sums that cannot drift: updates are folded in fixed point, so addition is associative and commutative to the bit.

Arrival order, duplicates, shards and restarts cannot change the result; tests compare digests, not tolerances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Plan

SCALE_BITS = 30  # one unit is 2^-30, about 1e-9 of a weight
Vector = Weights | NDArray[np.float64]
HEADROOM = 2 ** (62 - SCALE_BITS)  # the largest total of examples x peak that int64 holds with a bit to spare


class Told(NamedTuple):
    """What an aggregate may know of an update besides its difference: the plan behind it, and what the device says."""

    plan: Plan = Plan()
    metrics: Mapping[str, float] = MappingProxyType({})


NOTHING = Told()


class Aggregate(Protocol):
    """A commutative monoid over updates: start empty, add, merge, take the value. It streams, shards and nests."""

    def add(self, delta: Weights, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in."""

    def merge(self, other: Self) -> None:
        """Fold in what another aggregate has."""

    def value(self) -> NDArray[np.float64]:
        """Return the combined difference, float64[P]."""


@dataclass
class Mean:
    """The mean weighted by examples (FedAvg; McMahan et al. 2017, algorithm 1), O(P) memory, exact.

    `total` is the sum of round(delta * 2^30) * examples; `bound` is at least the sum of |delta| * examples over
    any one weight, and keeps below what int64 holds, so that saturation cannot happen.
    """

    total: NDArray[np.int64]
    examples: int = 0
    bound: int = 0

    @classmethod
    def empty(cls, parameters: int) -> Self:
        """Return the neutral element for `parameters` weights."""
        return cls(np.zeros(parameters, np.int64))

    def add(self, delta: Vector, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in; raises FrameError, and changes nothing, where the sum could leave int64."""
        share = _share(delta, examples)
        self._reserve(share)
        self.total += np.rint(delta.astype(np.float64) * 2.0**SCALE_BITS).astype(np.int64) * examples
        self.bound += share
        self.examples += examples

    def merge(self, other: Self) -> None:
        """Fold in another mean over the same weights; raises FrameError where the sum could leave int64."""
        self._reserve(other.bound)
        self.total += other.total
        self.bound += other.bound
        self.examples += other.examples

    def value(self) -> NDArray[np.float64]:
        """Return the mean, float64[P]; raises ValueError when nothing was added."""
        if self.examples == 0:
            raise ValueError("the mean of no updates")
        return self.total.astype(np.float64) / (self.examples * 2.0**SCALE_BITS)

    def _reserve(self, share: int) -> None:
        if self.bound + share > HEADROOM:
            raise FrameError(
                f"weights move by too much to be summed exactly: {self.bound + share} of {HEADROOM} "
                "(examples times largest change); lower the learning rate"
            )


@dataclass
class Sum:
    """The sum of vectors that a device's own numbers have scaled, each so many times, exact in units of 2^-60.

    What may be far smaller than a difference of weights keeps its digits here; `coarse` bounds it as a mean.
    """

    coarse: Mean
    fine: Mean

    @classmethod
    def empty(cls, parameters: int) -> Self:
        """Return the neutral element for `parameters` values."""
        return cls(Mean.empty(parameters), Mean.empty(parameters))

    def add(self, values: NDArray[np.float64], times: int = 1) -> None:
        """Fold one vector in; raises FrameError, and changes nothing, where the sum could leave int64."""
        self.coarse.add(values, times)
        scaled = values * 2.0**SCALE_BITS
        self.fine.add(scaled - np.rint(scaled), times)

    def merge(self, other: Self) -> None:
        """Fold in another sum; raises FrameError where it could leave int64."""
        self.coarse.merge(other.coarse)
        self.fine.merge(other.fine)

    def value(self) -> NDArray[np.float64]:
        """Return the sum, float64[P]."""
        return (self.coarse.total + self.fine.total / 2.0**SCALE_BITS) / 2.0**SCALE_BITS


def _share(delta: Vector, examples: int) -> int:
    """Return an integer that is at least examples * max|delta|."""
    peak = float(np.max(np.abs(delta), initial=0.0))
    return examples * (int(peak) + 1) if peak < HEADROOM else HEADROOM + 1
