"""Handwritten digits of 8 x 8 pixels, as scikit-learn ships them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def digits(*, seed: int = 0) -> Any:
    """A small CNN for 8x8x1 images scaled to 0..1, 10 classes; data: Alpaydin and Kaynak 1998, UCI Machine Learning."""
    return sequential(
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
