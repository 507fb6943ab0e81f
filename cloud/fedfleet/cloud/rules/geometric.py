"""The geometric median: the point with the least sum of distances to all updates (RFA; Pillutla et al. 2022)."""

from __future__ import annotations

import numpy as np

from fedfleet.cloud.rules.norms import length
from fedfleet.cloud.rules.ops import Array, Ops
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
        point, squares = np.zeros(rows.parameters), _added(list(rows.each(_squares)))
        for _ in range(PASSES):
            before, (point, squares) = point, _pass(rows, 1 / np.maximum(SMOOTHING, np.sqrt(squares)))
            if length(point - before) <= STILL * length(point):
                break
        return point

    return gathered(combine)


def _pass(rows: Rows, shares: Matrix) -> tuple[Matrix, Matrix]:
    """Return the next point, and the squares of its distances to the rows, all in one reading of them."""
    points, squares = zip(*rows.each(_moved, shares, np.float64(sum(shares.tolist()))))
    return np.concatenate(points), _added(squares)


def _added(parts: list[Matrix] | tuple[Matrix, ...]) -> Matrix:
    """The sum of what the blocks have, one after the other."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total += part
    return total


def _squares(ops: Ops, block: Array) -> Array:
    wide = ops.wide(block)
    return ops.total(wide * wide, 1)


def _moved(ops: Ops, block: Array, shares: Array, weight: Array) -> tuple[Array, Array]:
    point = ops.total(ops.wide(block) * shares[:, None], 0) / weight
    away = ops.wide(block) - point
    return point, ops.total(away * away, 1)
