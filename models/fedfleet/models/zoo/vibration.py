"""Whether a machine sounds as it always has."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers


def vibration(bins: int = 128, *, seed: int = 0) -> Any:
    """An autoencoder for a scaled spectrum of `bins` values, trained towards its own input with mean_squared_error.

    The reconstruction error is the anomaly score: it grows for what the machine has not done before. Shape after the
    autoencoder of MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597, anomaly detection; from the DCASE 2020 task 2
    baseline, Koizumi et al. 2020, arXiv 2006.05822), half as deep and wide; their batch normalisation is left out.
    """
    return sequential(
        seed,
        (bins,),
        layers.Dense(64, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(8, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(bins),
    )
