"""Median and trimmed mean of each weight by itself (Yin et al. 2018, definitions 1 and 2)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.rules.ops import Array, Kernel, Ops
from fedfleet.cloud.rules.rows import Matrix, Rows, gathered
from fedfleet.cloud.rules.rule import Rule


def median() -> Rule:
    """Return the rule of the middle value, or the mean of the two middle ones: good while most devices are."""
    return gathered(lambda rows: by_weight(rows, _median))


def trimmed(share: Fraction) -> Rule:
    """Return the rule of the mean without the largest and the smallest `share` of the values, rounded down.

    It takes so many updates that at least one goes at either end.
    """

    def combine(rows: Rows) -> Matrix:
        cut = int(len(rows) * share)
        return by_weight(rows, _between, np.float64(len(rows) - 2 * cut), cut=cut)

    return gathered(combine, math.ceil(1 / share))


def by_weight(rows: Rows, kernel: Kernel, *more: np.generic | NDArray[Any], **sizes: int) -> Matrix:
    """Return what `kernel`, to float64[some], makes of all weights, block after block."""
    return np.concatenate(list(rows.each(kernel, *more, **sizes)))


def middle(ops: Ops, values: Array) -> Array:
    """Return the median of each column of sorted float32[n, some], float64[some]."""
    last = values.shape[0] - 1
    return (ops.wide(values[last // 2]) + ops.wide(values[last - last // 2])) * 0.5


def mean(ops: Ops, values: Array, count: Array) -> Array:
    """Return the mean of each column of float32[n, some], n being `count`."""
    return ops.total(ops.wide(values), 0) / count


def _median(ops: Ops, block: Array) -> Array:
    return middle(ops, ops.sort(block))


def _between(ops: Ops, block: Array, count: Array, cut: int) -> Array:
    return mean(ops, ops.sort(block)[cut : block.shape[0] - cut], count)
