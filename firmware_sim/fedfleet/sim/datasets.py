"""Data sets for fleets on one machine: what the devices may learn from, and a held-out part that none of them sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedfleet.sim import mnist, turbofan
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples, parse, permutation, read, take

KINDS = ("mnist", "turbofan", "npz", "csv")
TEST_EVERY = 5
MAX_CLASSES = 2**16


@dataclass(frozen=True)
class Dataset:
    """Examples to learn from and to judge by; `metric` times `target_scale` is in the data's own units.

    `classes` is None for regression. `groups` is int[len(train)], the natural device of each training example, or None.
    """

    name: str
    train: Examples
    test: Examples
    classes: int | None
    groups: npt.NDArray[np.int64] | None
    metric: str
    target_scale: float


def load(spec: str, seed: int) -> Dataset:
    """The data set of `digits`, `mnist:DIR`, `turbofan:DIR`, `npz:FILE` or `csv:FILE?label=COL`; DataError if unusable.

    Where a data set brings no test part, every fifth example of a seeded order is held out, labels in proportion.
    """
    if spec == "digits":
        return _labelled("digits", *holdout(_digits(), seed))
    try:
        kind, path, options = parse(spec, KINDS)
    except DataError as error:
        raise DataError(f"{error}, or digits") from None
    if kind in ("npz", "csv"):
        return _labelled(path.stem, *holdout(read(spec), seed))
    if options:
        raise DataError(f"data {spec!r} takes no options: leave out all from the '?' on")
    return _turbofan(path) if kind == "turbofan" else _mnist(path, seed)


def whole(spec: str, test: str, seed: int) -> Dataset:
    """A data set to train on in one place: as `load` has it, but of `npz:` and `csv:` all, with targets as they are.

    `test` names what to judge those by, as npz or csv; empty where nothing is to be judged.
    """
    if spec.partition(":")[0] not in ("npz", "csv"):
        if test:
            raise DataError(f"{spec} brings its own examples to test on: leave {test!r} out")
        return load(spec, seed)
    train = read(spec)
    judged = read(test) if test else take(train, np.arange(0))
    if train.y.ndim == 2:
        return Dataset(spec, train, judged, None, None, "rmse", 1.0)
    return replace(_labelled(spec, train, judged if test else train), test=judged)


def holdout(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Four fifths to train on and one fifth to test on, each label in proportion; the same on every platform."""
    total = len(examples.y)
    if total < 2:
        raise DataError("1 example cannot be split into training and test: bring more")
    order = permutation(total, "holdout", seed)
    if examples.y.ndim == 1:
        order = order[np.argsort(examples.y[order], kind="stable")]
    held = np.arange(total) % TEST_EVERY == min(TEST_EVERY // 2, total - 1)
    return take(examples, np.sort(order[~held])), take(examples, np.sort(order[held]))


def _labelled(name: str, train: Examples, test: Examples) -> Dataset:
    """A data set without groups; as many classes as its highest label says, or targets scaled into -1..1."""
    if train.y.ndim == 2:
        scale = float(np.abs(train.y).max()) or 1.0
        train, test = (Examples(part.x, (part.y / scale).astype(np.float32)) for part in (train, test))
        return Dataset(name, train, test, None, None, "rmse", scale)
    classes = int(max(train.y.max(), test.y.max())) + 1
    if classes > MAX_CLASSES:
        raise DataError(f"{name} has label {classes - 1}: number the classes from 0, or make it a regression")
    return Dataset(name, train, test, classes, None, "accuracy", 1.0)


def _digits() -> Examples:
    """The 1797 images of 8x8 pixels that scikit-learn carries (UCI optical recognition of handwritten digits)."""
    # Here and not at the top: scikit-learn takes a second to load, and nothing else needs it.
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"digits come with scikit-learn ({error}): install fedfleet[sim]") from error
    found = load_digits()
    return Examples((found.images[..., None] / 16).astype(np.float32), found.target.astype(np.int32))


def _mnist(folder: Path, seed: int) -> Dataset:
    """IDX images with the official test part, or a seeded one where the folder holds a single part."""
    parts = mnist.read(folder)
    train, test = parts if len(parts) == 2 else holdout(parts[0], seed)
    return _labelled("mnist", train, test)


def _turbofan(folder: Path) -> Dataset:
    """C-MAPSS FD001: a device for each training engine, and the official test engines."""
    train, engines, test = turbofan.read(folder)
    return Dataset("turbofan", train, test, None, engines, "rmse", float(turbofan.CAP))
