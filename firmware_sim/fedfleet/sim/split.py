"""Who holds what: the training examples of a data set dealt to devices, evenly, unevenly, or as nature had them.

Every example goes to exactly one device. Nothing here depends on numpy's random distributions, which may change from
version to version: raw words of a named stream are turned into gamma variates (Marsaglia and Tsang 2000), kept as
logarithms because with a small alpha the variates themselves underflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedfleet.sim.datasets import Dataset
from fedfleet.wire.errors import DataError, SettingsError
from fedfleet.wire.examples import Examples, check, permutation, stream, take

LEAST = 2
BINS = 10
ALPHAS = (1e-3, 1e6)

Index = npt.NDArray[np.int64]


def split(spec: str, dataset: Dataset, devices: int, seed: int) -> list[Examples]:
    """The examples of each device by `iid`, `dirichlet:ALPHA` or `natural`, each at least 2; the same everywhere.

    `natural` takes the first `devices` groups. SettingsError for a request that makes no sense, DataError for one that
    the data cannot meet.
    """
    if devices < 1:
        raise SettingsError(f"a fleet of {devices} devices cannot hold data: ask for at least 1")
    if devices * LEAST > len(dataset.train.y):
        raise DataError(f"{dataset.name} has {len(dataset.train.y)} examples, too few for {LEAST} on {devices} devices")
    kind, _, argument = spec.partition(":")
    if spec == "iid":
        parts = _iid(dataset, devices, seed)
    elif spec == "natural":
        parts = _natural(dataset, devices)
    elif kind == "dirichlet":
        parts = _dirichlet(dataset, devices, _alpha(argument), seed)
    else:
        raise SettingsError(f"split {spec!r} is unknown: write iid, dirichlet:ALPHA or natural")
    return [take(dataset.train, part) for part in parts]


def set_aside(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Examples | None]:
    """`dataset` without that share of its training examples, and those; None for a share of 0. The same everywhere.

    Each label in proportion; where the data says which device an example came from, whole devices, the last ones.
    Raises DataError where either part would be empty.
    """
    if not share:
        return dataset, None
    chosen = _last_groups(dataset.groups, share) if dataset.groups is not None else _sprinkled(dataset, share, seed)
    if chosen.all() or not chosen.any():
        raise DataError(f"{dataset.name} has {len(chosen)} examples, and {share:g} of them are none, or all of them")
    kept = np.flatnonzero(~chosen)
    groups = None if dataset.groups is None else dataset.groups[kept]
    rest = replace(dataset, train=take(dataset.train, kept), groups=groups)
    return rest, take(dataset.train, np.flatnonzero(chosen))


def _last_groups(groups: Index, share: float) -> npt.NDArray[np.bool_]:
    known = np.unique(groups)
    return np.isin(groups, known[len(known) - math.ceil(round(share * len(known), 6)) :])


def _sprinkled(dataset: Dataset, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Of the examples in a seeded order, by labels where there are some, those at which another whole one is due."""
    order = permutation(len(dataset.train.y), "cloud", seed)
    if dataset.train.y.ndim == 1:
        order = order[np.argsort(dataset.train.y[order], kind="stable")]
    due = np.floor(np.arange(len(order) + 1) * share + 0.5)
    chosen = np.zeros(len(order), bool)
    chosen[order[np.diff(due) > 0]] = True
    return chosen


def counts(parts: Sequence[Examples], classes: int) -> Index:
    """How many examples of each class each device holds, int64[devices, classes]; for plots."""
    for part in parts:
        if part.y.ndim != 1:
            raise DataError("regression targets have no classes to count: plot their spread instead")
        check(part, classes=classes)
    return np.array([np.bincount(part.y, minlength=classes) for part in parts], np.int64)


def _iid(dataset: Dataset, devices: int, seed: int) -> list[Index]:
    """A shuffled deck, dealt in turn: sizes differ by at most 1."""
    order = permutation(len(dataset.train.y), "iid", seed)
    return [order[device::devices] for device in range(devices)]


def _natural(dataset: Dataset, devices: int) -> list[Index]:
    """The first groups as they are."""
    if dataset.groups is None:
        raise DataError(f"{dataset.name} does not say which device an example came from: split it iid or dirichlet")
    groups = np.unique(dataset.groups)
    if devices > len(groups):
        raise SettingsError(f"{dataset.name} comes from {len(groups)} devices, not {devices}: ask for at most those")
    parts = [np.flatnonzero(dataset.groups == group) for group in groups[:devices]]
    for group, part in zip(groups, parts):
        if len(part) < LEAST:
            raise DataError(f"device {group} of {dataset.name} has {len(part)} example, fewer than {LEAST}: drop it")
    return parts


def _alpha(text: str) -> float:
    """The concentration parameter; SettingsError unless it is a number in a range that means something."""
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not ALPHAS[0] <= alpha <= ALPHAS[1]:
        raise SettingsError(
            f"dirichlet needs an ALPHA from {ALPHAS[0]:g} to {ALPHAS[1]:g}, not {text!r}: 0.1 is skewed"
        )
    return alpha


def _dirichlet(dataset: Dataset, devices: int, alpha: float, seed: int) -> list[Index]:
    """Each label dealt in shares ~ Dirichlet(alpha) over the devices; targets by their quantile bin.

    So devices differ in labels and in size (Yurochkin et al. 2019; Hsu et al. 2019 draw a label mix per device).
    """
    bins = _bins(dataset.train.y)
    random = stream("dirichlet", seed)
    table = np.array([_apportion(_shares(random, alpha, devices), int(n)) for n in np.bincount(bins)]).T
    _lift(table)
    order = permutation(len(bins), "dirichlet", seed)
    decks = [order[bins[order] == label] for label in range(table.shape[1])]
    dealt = [np.split(deck, np.cumsum(column)[:-1]) for deck, column in zip(decks, table.T)]
    return [np.concatenate(pieces) for pieces in zip(*dealt)]


def _bins(y: npt.NDArray[np.int32] | npt.NDArray[np.float32]) -> Index:
    """The rank of each label among those there are; of targets, the tenth the first lies in, ties together."""
    if y.ndim == 1:
        return np.unique(y, return_inverse=True)[1].reshape(-1).astype(np.int64)
    first = y[:, 0]
    edges = np.sort(first)[[len(first) * tenth // BINS for tenth in range(1, BINS)]]
    return np.searchsorted(edges, first, side="right").astype(np.int64)


def _apportion(shares: npt.NDArray[np.float64], total: int) -> Index:
    """Whole numbers near total * shares that sum to total (largest remainders; ties to the lower device)."""
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    rest = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return whole


def _lift(table: Index) -> None:
    """Give poor devices of table[devices, labels] the commonest label of the richest until each has the least."""
    sizes = table.sum(axis=1)
    for poor in np.flatnonzero(sizes < LEAST):
        while sizes[poor] < LEAST:
            rich = int(np.argmax(sizes))
            label = int(np.argmax(table[rich]))
            table[rich, label] -= 1
            table[poor, label] += 1
            sizes[rich] -= 1
            sizes[poor] += 1


def _shares(random: np.random.PCG64, alpha: float, devices: int) -> npt.NDArray[np.float64]:
    """One draw of Dirichlet(alpha, ..., alpha), float64[devices]."""
    logs = [_log_gamma(random, alpha) for _ in range(devices)]
    top = max(logs)
    shares = [math.exp(log - top) for log in logs]
    total = math.fsum(shares)
    return np.array([share / total for share in shares])


def _uniform(random: np.random.PCG64) -> float:
    """A number between 0 and 1, neither of them included."""
    return (int(random.random_raw()) // 2**12 + 0.5) / 2**52


def _log_gamma(random: np.random.PCG64, alpha: float) -> float:
    """The logarithm of one Gamma(alpha, 1) variate."""
    if alpha < 1:
        return _log_gamma(random, alpha + 1) + math.log(_uniform(random)) / alpha
    d = alpha - 1 / 3
    while True:
        radius = math.sqrt(-2 * math.log(_uniform(random)))
        normal = radius * math.cos(2 * math.pi * _uniform(random))
        cube = (1 + normal / math.sqrt(9 * d)) ** 3
        if cube <= 0:
            continue
        if math.log(_uniform(random)) < normal * normal / 2 + d - d * cube + d * math.log(cube):
            return math.log(d) + math.log(cube)


def histogram(dataset: Dataset, parts: Sequence[Examples]) -> tuple[Index, tuple[str, ...]]:
    """How many examples each device holds by label, or by tenths of the range of targets; int64[devices, labels]."""
    if dataset.classes is not None:
        return counts(parts, dataset.classes), tuple(map(str, range(dataset.classes)))
    first = dataset.train.y[:, 0].astype(np.float64) * dataset.target_scale
    edges = np.linspace(first.min(), max(first.max(), first.min() + 1e-9), BINS + 1)
    scaled = [part.y[:, 0].astype(np.float64) * dataset.target_scale for part in parts]
    table = np.stack([np.histogram(values, edges)[0] for values in scaled]).astype(np.int64)
    return table, tuple(f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges))
