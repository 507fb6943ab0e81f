"""Models to start from, small enough for a board; the same seed gives the same initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

layers = tf.keras.layers


def digits(*, seed: int = 0) -> Any:
    """A small CNN for 8x8x1 images scaled to 0..1, 10 classes."""
    return _model(
        seed,
        (8, 8, 1),
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    )


def mnist(*, seed: int = 0) -> Any:
    """The CNN of McMahan et al. 2017 (arXiv 1602.05629, section 3): 28x28x1 scaled to 0..1, 1,663,370 parameters."""
    return _model(
        seed,
        (28, 28, 1),
        layers.Conv2D(32, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(512, activation="relu"),
        layers.Dense(10, activation="softmax"),
    )


def turbofan(*, seed: int = 0) -> Any:
    """Remaining useful life from 30 cycles of 14 scaled sensors: one output, the life in units of 125 cycles."""
    return _model(
        seed,
        (30, 14),
        layers.Conv1D(16, 5, activation="relu"),
        layers.Conv1D(16, 5, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(32, activation="relu"),
        layers.Dense(1),
    )


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
    return _model(seed, (features,), *front, *hidden, last)


def _model(seed: int, shape: tuple[int, ...], *stack: Any) -> Any:
    """The stack as a Sequential model, its initial weights drawn from `seed` alone."""
    for i, layer in enumerate(stack):
        if hasattr(layer, "kernel_initializer"):
            # an initialiser of its own leaves the program's global random state alone
            layer.kernel_initializer = tf.keras.initializers.GlorotUniform(seed=seed * 1000 + i)
    return tf.keras.Sequential([tf.keras.Input(shape), *stack])
