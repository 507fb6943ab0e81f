"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedfleet.cloud.servers import Difference, Moments
from fedfleet.cloud.sums import Aggregate


class Memory(NamedTuple):
    """What a rule remembers from round to round: the rows it starts from, for P weights, and the difference by them.

    The first raises SettingsError where the rule does not fit P weights. The second takes the aggregate and the rows,
    and gives new ones.
    """

    start: Callable[[int], Moments]
    value: Callable[[Aggregate, Moments], tuple[Difference, Moments]]


class Rule(NamedTuple):
    """An empty aggregate for P weights, how many updates it must have before there is a value, and its memory."""

    aggregate: Callable[[int], Aggregate]
    least: int = 1
    memory: Memory | None = None
