"""What a person, or a machine, is doing, from a window of inertial sensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def activity(classes: int = 6, *, seed: int = 0) -> Any:
    """A 1-D CNN for 128 samples of 9 scaled channels (2.56 s at 50 Hz): acceleration of body and total, rotation.

    Windows and classes: Anguita et al. 2013 (ESANN, A Public Domain Dataset for Human Activity Recognition Using
    Smartphones). Stacked wide convolutions with pooling after Ronao and Cho 2016 (Expert Systems with Applications 59),
    with a sixth of their feature maps.
    """
    return sequential(
        seed,
        (128, 9),
        layers.Conv1D(16, 9, padding="same", activation="relu"),
        layers.MaxPooling1D(2),
        layers.Conv1D(32, 9, padding="same", activation="relu"),
        layers.MaxPooling1D(2),
        layers.Conv1D(32, 9, padding="same", activation="relu"),
        layers.GlobalAveragePooling1D(),
        layers.Dense(classes, activation="softmax"),
    )
