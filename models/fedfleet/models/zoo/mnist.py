"""Handwritten digits of 28 x 28 pixels."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def mnist(*, seed: int = 0) -> Any:
    """The CNN of McMahan et al. 2017 (arXiv 1602.05629, section 3): 28x28x1 scaled to 0..1, 1,663,370 parameters."""
    return sequential(
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
