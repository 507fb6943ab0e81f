"""Krum and multi-Krum (Blanchard et al. 2017), Bulyan (El Mhamdi et al. 2018): trust who has company.

The score of an update is the sum of the squared distances to its n - f - 2 nearest, f being how many may be bad.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.rules.coordinates import by_weight, mean, middle
from fedfleet.cloud.rules.ops import Array, Ops
from fedfleet.cloud.rules.rows import Matrix, Rows, gathered
from fedfleet.cloud.rules.rule import Rule


def krum(bad: int) -> Rule:
    """Return the rule that takes the update of the least score, alone; it asks for n > 2f + 2."""
    return multikrum(bad, 1)


def multikrum(bad: int, kept: int) -> Rule:
    """Return the rule of the mean of the `kept` updates of the least scores; it also asks for n >= f + kept."""

    def combine(rows: Rows) -> Matrix:
        best = np.sort(np.argsort(scores(distances(rows), bad), kind="stable")[:kept])
        return by_weight(rows, _mean_of, best, np.float64(kept))

    return gathered(combine, max(2 * bad + 3, bad + kept))


def bulyan(bad: int) -> Rule:
    """Return the rule that lets Krum choose n - 2f updates, one by one, and takes of each weight the middle n - 4f.

    The middle is the mean of those nearest to the median, of two as near the smaller one. It asks for n >= 4f + 3.
    """

    def combine(rows: Rows) -> Matrix:
        chosen = _chosen(distances(rows), bad)
        near = len(chosen) - 2 * bad
        return by_weight(rows, _nearest, chosen, np.float64(near), near=near)

    return gathered(combine, 4 * bad + 3)


def distances(rows: Rows) -> Matrix:
    """Return the squared distances between all updates, float64[n, n]."""
    found = np.zeros((len(rows), len(rows)))
    for part in rows.each(_apart):
        found += part
    return found


def scores(squares: Matrix, bad: int) -> Matrix:
    """Return Krum's scores, float64[n]; of the last few that Bulyan chooses from, at least the nearest one counts."""
    near = max(1, len(squares) - bad - 2)
    return np.asarray(np.sort(squares, axis=1)[:, 1 : near + 1].sum(axis=1))


def _chosen(squares: Matrix, bad: int) -> NDArray[np.intp]:
    """Return which updates Bulyan goes on with, in order."""
    left = np.arange(len(squares))
    while len(left) > 2 * bad:
        left = np.delete(left, np.argmin(scores(squares[np.ix_(left, left)], bad)))
    return np.setdiff1d(np.arange(len(squares)), left)


def _apart(ops: Ops, block: Array) -> Array:
    return ops.apart(block)


def _mean_of(ops: Ops, block: Array, chosen: Array, count: Array) -> Array:
    return mean(ops, ops.rows(block, chosen), count)


def _nearest(ops: Ops, block: Array, chosen: Array, count: Array, near: int) -> Array:
    """Return the mean of the `near` values of each column, of those chosen, that are nearest to their median."""
    values = ops.sort(ops.rows(block, chosen))
    order = ops.order(abs(ops.wide(values) - middle(ops, values)))
    return mean(ops, ops.along(values, order[:near]), count)
