"""Sums that cannot drift: updates are folded in fixed point, so addition is associative and commutative to the bit.

Arrival order, duplicates, shards and restarts cannot change the result; tests compare digests, not tolerances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError

SCALE_BITS = 30  # one unit is 2^-30, about 1e-9 of a weight
HEADROOM = 2 ** (62 - SCALE_BITS)  # the largest total of examples x peak that int64 holds with a bit to spare


class Aggregate(Protocol):
    """A commutative monoid over updates: start empty, add, merge, take the value. It streams, shards and nests."""

    def add(self, delta: Weights, examples: int) -> None:
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

    def add(self, delta: Weights, examples: int) -> None:
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


def _share(delta: Weights, examples: int) -> int:
    """Return an integer that is at least examples * max|delta|."""
    peak = float(np.max(np.abs(delta), initial=0.0))
    return examples * (int(peak) + 1) if peak < HEADROOM else HEADROOM + 1
