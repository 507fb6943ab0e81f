"""Median and trimmed mean of each weight by itself (Yin et al. 2018, definitions 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from fedfleet.cloud.rules.rows import Matrix, Rows, gathered
from fedfleet.cloud.rules.rule import Rule


def median() -> Rule:
    """Return the rule of the middle value, or the mean of the two middle ones: good while most devices are."""
    return gathered(by_weight(lambda block: np.median(block, axis=0)))


def trimmed(share: Fraction) -> Rule:
    """Return the rule of the mean without the largest and the smallest `share` of the values, rounded down.

    It takes so many updates that at least one goes at either end.
    """

    def combine(block: Matrix) -> Matrix:
        cut = int(len(block) * share)
        kept: Matrix = np.sort(block, axis=0)[cut : len(block) - cut]
        return np.asarray(kept.mean(axis=0))

    return gathered(by_weight(combine), math.ceil(1 / share))


def by_weight(combine: Callable[[Matrix], Matrix]) -> Callable[[Rows], Matrix]:
    """Return `combine`, float64[n, some] -> float64[some], for all weights, block after block."""
    return lambda rows: np.concatenate([combine(block) for block in rows.blocks()])
