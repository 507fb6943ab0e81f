from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow 2.14 warns while it is imported, and an import that a warning broke cannot be repeated
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow as tf

from fedfleet.models import compiler
from fedfleet.models.compiled import Compiled

INPUTS, OUTPUTS = 9, 4  # 40 weights, as many as the federations of the tests have
Build = Callable[[], Any]


@pytest.fixture(scope="session")
def dense() -> Callable[..., Build]:
    """What builds a model of one dense layer that ends in `activation`, or has more before."""

    def make(activation: str | None = None, *before: Any, inputs: int = INPUTS) -> Build:
        def build() -> Any:
            last = tf.keras.layers.Dense(OUTPUTS, activation=activation)
            return tf.keras.Sequential([tf.keras.Input((inputs,)), *(layer() for layer in before), last])

        return build

    return make


@pytest.fixture(scope="session")
def compiled(dense: Callable[..., Build]) -> Callable[..., Compiled]:
    """The program of a dense model with a loss, its weights drawn from a seed; each is compiled once."""
    known: dict[tuple[Any, ...], Compiled] = {}

    def make(loss: str = "sparse_categorical_crossentropy", activation: str | None = None) -> Compiled:
        if (loss, activation) not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = compiler.compile(dense(activation)(), loss, batch=8)
            weights = np.random.default_rng(3).normal(0, 0.5, found.weights.size).astype(np.float32)
            known[loss, activation] = found.with_weights(weights)
        return known[loss, activation]

    return make


@pytest.fixture(scope="session")
def x() -> np.ndarray[Any, np.dtype[np.float32]]:
    """30 rows of input."""
    return np.random.default_rng(4).normal(size=(30, INPUTS)).astype(np.float32)
