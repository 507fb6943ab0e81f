"""Krum and multi-Krum (Blanchard et al. 2017), Bulyan (El Mhamdi et al. 2018): trust who has company.

The score of an update is the sum of the squared distances to its n - f - 2 nearest, f being how many may be bad.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.rules.coordinates import by_weight
from fedfleet.cloud.rules.rows import Matrix, Rows, gathered
from fedfleet.cloud.rules.rule import Rule


def krum(bad: int) -> Rule:
    """Return the rule that takes the update of the least score, alone; it asks for n > 2f + 2."""
    return multikrum(bad, 1)


def multikrum(bad: int, kept: int) -> Rule:
    """Return the rule of the mean of the `kept` updates of the least scores; it also asks for n >= f + kept."""

    def combine(rows: Rows) -> Matrix:
        best = np.sort(np.argsort(scores(distances(rows), bad), kind="stable")[:kept])
        return by_weight(lambda block: np.asarray(block[best].mean(axis=0)))(rows)

    return gathered(combine, max(2 * bad + 3, bad + kept))


def bulyan(bad: int) -> Rule:
    """Return the rule that lets Krum choose n - 2f updates, one by one, and takes of each weight the middle n - 4f.

    The middle is the mean of those nearest to the median, of two as near the smaller one. It asks for n >= 4f + 3.
    """

    def combine(rows: Rows) -> Matrix:
        chosen = _chosen(distances(rows), bad)
        return by_weight(lambda block: _middle(block[chosen], len(chosen) - 2 * bad))(rows)

    return gathered(combine, 4 * bad + 3)


def distances(rows: Rows) -> Matrix:
    """Return the squared distances between all updates, float64[n, n]."""
    count = len(rows)
    found = np.zeros((count, count))
    for block in rows.blocks():
        for i in range(count - 1):
            found[i, i + 1 :] += np.square(block[i + 1 :] - block[i]).sum(axis=1)
    return found + found.T


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


def _middle(block: Matrix, count: int) -> Matrix:
    """Return the mean of the `count` values of each column that are nearest to its median."""
    values = np.sort(block, axis=0)
    near = np.argsort(np.abs(values - np.median(values, axis=0)), axis=0, kind="stable")[:count]
    return np.asarray(np.take_along_axis(values, near, axis=0).mean(axis=0))
