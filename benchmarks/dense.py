"""A small model for images of 28 x 28 pixels, on which the zoo's CNN takes hours: --model benchmarks/dense.py:build."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def build() -> Any:
    """One hidden layer of 32; 25,450 parameters, the same at every call."""
    hidden, out = layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax")
    return sequential(0, (28, 28, 1), layers.Flatten(), hidden, out)
