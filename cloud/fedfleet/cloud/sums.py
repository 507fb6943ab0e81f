"""Sums that cannot drift: updates are folded in fixed point, so addition is associative and commutative to the bit.

Arrival order, duplicates, shards and restarts cannot change the result; tests compare digests, not tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.cores import spread
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Plan

SCALE_BITS = 30  # one unit is 2^-30, about 1e-9 of a weight
Vector = Weights | NDArray[np.float64]
HEADROOM = 2 ** (62 - SCALE_BITS)  # the largest total of examples x peak that int64 holds with a bit to spare
EXACT = 2 ** (53 - SCALE_BITS)  # the largest for which float64 holds every integer on the way
BLOCK = 131_072  # weights at a time, so that what is between the steps stays in the processor's cache


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


@runtime_checkable
class Decoding(Protocol):
    """An aggregate that takes updates as they came off the wire; what it has to know of them is in the bytes."""

    def take(self, codec: str, data: bytes, examples: int) -> None:
        """Fold one update in; raises FrameError as `grow` and `add` would, in the same words."""


class Adder(Protocol):
    """What adds rounded products up for a mean in another place, exactly."""

    def fold(self, delta: Vector, examples: int) -> None:
        """Add round(delta * 2^30) * examples."""

    def drained(self) -> NDArray[np.int64]:
        """Return the sum of all since it was asked last, int64[P]."""


@dataclass
class Mean:
    """The mean weighted by examples (FedAvg; McMahan et al. 2017, algorithm 1), O(P) memory, exact.

    The sum of round(delta * 2^30) * examples is `settled` and `recent` together: float64 is faster to add to, and holds
    integers exactly up to 2^53. `bound` is at least the sum of |delta| * examples over any one weight, `near` that of
    `recent` alone; they keep below what int64 and float64 hold, so that neither saturates or rounds. Where there is an
    `adder`, that has what is recent.
    """

    settled: NDArray[np.int64]
    recent: NDArray[np.float64]
    examples: int = 0
    bound: int = 0
    near: int = 0
    adder: Adder | None = None

    @classmethod
    def empty(cls, parameters: int) -> Self:
        """Return the neutral element for `parameters` weights."""
        return cls(np.zeros(parameters, np.int64), np.zeros(parameters))

    @property
    def total(self) -> NDArray[np.int64]:
        """The sum in units of 2^-30, int64[P]."""
        self._settle()
        return self.settled

    def add(self, delta: Vector, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in; raises FrameError, and changes nothing, where the sum could leave int64."""
        share = self.admitted(_peak(delta), examples)
        if self.adder is not None:
            self.adder.fold(delta, examples)
        elif share > EXACT:
            self.settled += np.rint(delta.astype(np.float64) * 2.0**SCALE_BITS).astype(np.int64) * examples
        else:
            if self.near + share > EXACT:
                self._settle()
            spread(partial(_fold, self.recent, delta, examples), delta.size)
            self.near += share

    def admitted(self, peak: float, examples: int) -> int:
        """Count an update whose largest change is `peak`, which is to be folded in, and return its share of HEADROOM.

        Raises FrameError, and changes nothing, where the sum could leave int64.
        """
        share = examples * (int(peak) + 1) if peak < HEADROOM else HEADROOM + 1
        self._reserve(share)
        self.bound += share
        self.examples += examples
        return share

    def merge(self, other: Self) -> None:
        """Fold in another mean over the same weights; raises FrameError where the sum could leave int64."""
        self._reserve(other.bound)
        self.settled += other.total
        self.bound += other.bound
        self.examples += other.examples

    def value(self) -> NDArray[np.float64]:
        """Return the mean, float64[P]; raises ValueError when nothing was added."""
        if self.examples == 0:
            raise ValueError("the mean of no updates")
        total = self.recent if self.near == self.bound else self.total  # both are the sum then
        return total / (self.examples * 2.0**SCALE_BITS)

    def _settle(self) -> None:
        """Move what is recent to where there is room."""
        if self.adder is not None:
            self.settled += self.adder.drained()
        if self.near:
            for block in _blocks(slice(0, self.recent.size)):
                self.settled[block] += self.recent[block].astype(np.int64)
                self.recent[block] = 0.0
            self.near = 0

    def _reserve(self, share: int) -> None:
        if self.bound + share > HEADROOM:
            raise FrameError(
                f"weights move by too much to be summed exactly: {self.bound + share} of {HEADROOM} "
                "(examples times largest change); lower the learning rate"
            )


def discounted(delta: Weights, behind: int) -> Weights:
    """Return `delta`, which is `behind` rounds old, times 1 / sqrt(1 + behind) (Nguyen et al. 2022, section 5).

    It is float32 again and no longer than it was, so that its sum is exact, and HEADROOM what it is without. The mean
    still divides by all examples: what is old moves the model less, and is not made up for by what is new.
    """
    return (delta.astype(np.float64) / math.sqrt(1 + behind)).astype(np.float32)


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


def _fold(total: NDArray[np.float64], delta: Vector, examples: int, piece: slice) -> None:
    """Add round(delta * 2^30) * examples to `total`, in few and small steps: each is exact, 2^30 in float32 as well."""
    narrow, wide = np.empty(BLOCK, delta.dtype), np.empty(BLOCK)
    for block in _blocks(piece):
        part, sums = delta[block], total[block]
        units, product = narrow[: part.size], wide[: part.size]
        np.rint(np.multiply(part, 2.0**SCALE_BITS, out=units), out=units)
        product[:] = units
        product *= examples
        sums += product


def _blocks(piece: slice) -> list[slice]:
    return [slice(start, min(start + BLOCK, piece.stop)) for start in range(piece.start, piece.stop, BLOCK)]


def _peak(delta: Vector) -> float:
    """Return max|delta|; NaN where there is one."""
    found = spread(partial(_peaks, delta), delta.size)
    return float(np.max([peak for peaks in found for peak in peaks], initial=0.0))


def _peaks(delta: Vector, piece: slice) -> list[float]:
    """Return the largest change of each block, up and down, or NaN if that is in it."""
    parts = [delta[block] for block in _blocks(piece)]
    return [float(peak) for part in parts for peak in (part.max(), -part.min())]
