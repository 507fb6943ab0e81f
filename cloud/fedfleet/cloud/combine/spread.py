"""Aggregates spread over replicas: their sums and their rows are worked on there, all else stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.combine.held import Held, look, values
from fedfleet.cloud.rules.ops import Engine
from fedfleet.cloud.rules.rows import Rows
from fedfleet.cloud.sums import NOTHING, Aggregate, Mean, Told, Vector
from fedfleet.wire.codecs import Weights, grow

EACH = 8  # updates that a replica folds in one pass over its sum


class Pool(Protocol):
    """Replicas, and what they do: fold updates, each by how often it counts; work through a rule's blocks.

    A sum lies on the replicas, a part on each. A group has as many updates for every replica; all are alike.
    """

    @property
    def replicas(self) -> int:
        """How many there are."""

    @property
    def engine(self) -> Engine:
        """What works through the blocks of a rule."""

    def zeros(self, parameters: int) -> Any:
        """Return a sum of nothing."""

    def fold(self, total: Any, group: list[tuple[Held, int]]) -> Any:
        """Return `total` with a group added to it; raises StoreError where a replica has no room."""

    def joined(self, total: Any) -> NDArray[np.int64]:
        """Return all parts of a sum together, int64[P]."""


class Replicated:
    """The adder of one mean. A bounded number of updates waits until it is worth a pass."""

    def __init__(self, pool: Pool, parameters: int) -> None:
        self._pool = pool
        self._parameters = parameters
        self._total: Any = None
        self._waiting: list[tuple[Held, int]] = []

    def fold(self, delta: Vector, examples: int) -> None:
        """Add round(delta * 2^30) * examples."""
        self.hold(values(delta), examples)

    def hold(self, held: Held, examples: int) -> None:
        """Add an update that is not decoded yet."""
        if self._waiting and self._waiting[0][0].like != held.like:
            self._flush()
        self._waiting.append((held, examples))
        if len(self._waiting) == EACH * self._pool.replicas:
            self._pass(EACH * self._pool.replicas)

    def drained(self) -> NDArray[np.int64]:
        """Return the sum of all since it was asked last, int64[P]."""
        self._flush()
        total, self._total = self._total, None
        return np.zeros(self._parameters, np.int64) if total is None else self._pool.joined(total)

    def _flush(self) -> None:
        while self._waiting:
            self._pass(self._pool.replicas)

    def _pass(self, size: int) -> None:
        """Fold the first `size` that wait; where there are fewer, the last of them again, counting nothing."""
        group, self._waiting = self._waiting[:size], self._waiting[size:]
        group += [(group[-1][0], 0)] * (size - len(group))
        before = self._pool.zeros(self._parameters) if self._total is None else self._total
        self._total = self._pool.fold(before, group)


@dataclass
class Wired:
    """A mean on replicas that decode what came off the wire, where they can."""

    mean: Mean
    adder: Replicated

    def add(self, delta: Weights, examples: int, told: Told = NOTHING) -> None:
        """Fold one update in; raises FrameError, and changes nothing, where the sum could leave int64."""
        self.mean.add(delta, examples)

    def take(self, codec: str, data: bytes, examples: int) -> None:
        """Fold one update in as it came; raises FrameError as `grow` and `add` would, in the same words."""
        found = look(codec, data, self.mean.settled.size)
        if found is None:
            self.mean.add(grow(codec, data, self.mean.settled.size), examples)
        else:
            self.mean.admitted(found.peak, examples)
            self.adder.hold(found.held, examples)

    def merge(self, other: Self) -> None:
        """Fold in another one; raises FrameError where the sum could leave int64."""
        self.mean.merge(other.mean)

    def value(self) -> NDArray[np.float64]:
        """Return the mean, float64[P]; raises ValueError when nothing was added."""
        return self.mean.value()


def spread(made: Aggregate, pool: Pool) -> Aggregate:
    """Return `made`, an empty aggregate, with all its sums and rows on the replicas of `pool`."""
    if isinstance(made, Mean):
        adder = _moved(made, pool)
        return Wired(made, adder)
    _within(made, pool)
    return made


def _within(made: object, pool: Pool) -> None:
    """Move every sum that `made` is composed of."""
    if isinstance(made, Rows):
        made.engine = pool.engine
    elif isinstance(made, Mean):
        _moved(made, pool)
    elif is_dataclass(made):
        for field in fields(made):
            _within(getattr(made, field.name), pool)


def _moved(mean: Mean, pool: Pool) -> Replicated:
    adder = Replicated(pool, mean.settled.size)
    mean.adder, mean.recent = adder, np.zeros(0)
    return adder
