from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

# TensorFlow 2.14 warns while it is imported, and an import that a warning broke cannot be repeated
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow as tf

from fedfleet.models.compiled import Compiled
from fedfleet.models.runtime import interpreter


@pytest.fixture
def run() -> Callable[[Compiled], dict[str, Any]]:
    """The signatures of a compiled program as functions, its weights set."""

    def load(compiled: Compiled) -> dict[str, Any]:
        loaded = interpreter(compiled.program)
        functions = {name: loaded.get_signature_runner(name) for name in loaded.get_signature_list()}
        functions["set"](weights=compiled.weights)
        return functions

    return load


@pytest.fixture
def stack() -> Callable[..., Any]:
    """A Sequential model with random biases: zeros would hide mistakes in where they are added."""

    def build(shape: tuple[int, ...], *layers: Any, seed: int = 1) -> Any:
        model = tf.keras.Sequential([tf.keras.Input(shape), *layers])
        random = np.random.default_rng(seed)
        for weight in model.weights:
            scale = 1.0 / np.sqrt(np.prod(weight.shape[:-1]) + 1)
            weight.assign(random.normal(0, scale, tuple(weight.shape)).astype(np.float32))
        return model

    return build
