"""The geometric median: the point with the least sum of distances to all updates (RFA; Pillutla et al. 2022)."""

from __future__ import annotations

import numpy as np

from fedfleet.cloud.rules.norms import length
from fedfleet.cloud.rules.rows import Matrix, Rows, gathered
from fedfleet.cloud.rules.rule import Rule

SMOOTHING = 1e-6  # nu of the paper: distances below it count as it
PASSES = 100
STILL = 1e-6  # a pass that moves by less, as a share of where it is, is the last one


def geomedian() -> Rule:
    """Return the rule of the geometric median by the smoothed Weiszfeld algorithm, from the present model on.

    v = sum(b x) / sum(b) with b = 1 / max(nu, |v - x|) (algorithm 2, all devices alike); good while most devices are.
    """

    def combine(rows: Rows) -> Matrix:
        point = np.zeros(rows.parameters)
        for _ in range(PASSES):
            before, point = point, _pass(rows, point)
            if length(point - before) <= STILL * length(point):
                break
        return point

    return gathered(combine)


def _pass(rows: Rows, point: Matrix) -> Matrix:
    total, weight = np.zeros(rows.parameters), 0.0
    for row in rows.rows():
        share = 1 / max(SMOOTHING, length(row - point))
        total += share * row
        weight += share
    return total / weight
