"""What a series of readings means, in the order in which they came."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def readings(steps: int = 64, features: int = 8, classes: int = 4, *, seed: int = 0) -> Any:
    """A GRU (Cho et al. 2014, arXiv 1406.1078) over `steps` readings of `features` scaled sensors; a class for all."""
    return sequential(seed, (steps, features), layers.GRU(32), layers.Dense(classes, activation="softmax"))
