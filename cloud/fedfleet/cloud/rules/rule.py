"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedfleet.cloud.sums import Aggregate


class Rule(NamedTuple):
    """An empty aggregate for P weights, and how many updates it must have before there is a value."""

    aggregate: Callable[[int], Aggregate]
    least: int = 1
