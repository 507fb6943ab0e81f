"""Rows of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def tabular(
    features: int,
    classes: int | None,
    *,
    targets: int = 1,
    spread: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
) -> Any:
    """An MLP for rows of features; `classes=None` means regression to `targets` numbers.

    With `spread`, the means and variances of the features, the model itself brings each to mean 0 and variance 1.
    """
    last = layers.Dense(targets) if classes is None else layers.Dense(classes, activation="softmax")
    hidden = (layers.Dense(64, activation="relu"), layers.Dense(32, activation="relu"))
    front = [layers.Normalization(mean=list(spread[0]), variance=list(spread[1]))] if spread else []
    return sequential(seed, (features,), *front, *hidden, last)
