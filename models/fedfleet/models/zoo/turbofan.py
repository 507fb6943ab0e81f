"""How long an engine has left."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def turbofan(*, seed: int = 0) -> Any:
    """Remaining useful life from 30 cycles of 14 scaled sensors: one output, the life in units of 125 cycles.

    Windows, sensors and the bound of 125 as Li, Ding and Sun 2018 have them (Reliability Engineering & System Safety
    172, section 4, data set FD001); the network is smaller than theirs.
    """
    return sequential(
        seed,
        (30, 14),
        layers.Conv1D(16, 5, activation="relu"),
        layers.Conv1D(16, 5, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(32, activation="relu"),
        layers.Dense(1),
    )
