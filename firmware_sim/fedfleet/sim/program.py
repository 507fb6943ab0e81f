"""The model of a run: the user's own or one of the zoo, compiled. TensorFlow is loaded here and only here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models import compiler, source, zoo
from fedfleet.models.compiled import Compiled, Weights
from fedfleet.sim.datasets import Dataset
from fedfleet.wire import files
from fedfleet.wire.errors import ModelError

VARIANCE = 1e-6  # a sensor that never changes is not blown up


def build(dataset: Dataset, kind: str, model: str, seed: int) -> Any:
    """Return the Keras model of `FILE.py:FUNCTION`, or the one of the zoo for a `kind` of data. Raises ModelError."""
    if model:
        return source.build(model)
    if kind == "digits":
        return zoo.digits(seed=seed)
    if kind == "mnist":
        return zoo.mnist(seed=seed)
    if kind == "turbofan":
        return zoo.turbofan(seed=seed)
    x = dataset.train.x.astype(np.float64)
    if x.ndim != 2:
        raise ModelError(f"no ready model takes examples of shape {list(x.shape[1:])}; name yours: --model FILE.py:F")
    spread = (x.mean(axis=0), np.maximum(x.var(axis=0), VARIANCE))
    targets = 1 if dataset.train.y.ndim == 1 else dataset.train.y.shape[1]
    return zoo.tabular(x.shape[1], dataset.classes, targets=targets, spread=spread, seed=seed)


def compiled(model: Any, dataset: Dataset, batch: int, local: Sequence[str] = ()) -> Compiled:
    """Return the device program of `model`, for labels or for targets as the data has them. Raises ModelError."""
    loss = "mean_squared_error" if dataset.classes is None else "sparse_categorical_crossentropy"
    return compiler.compile(model, loss, batch=batch, local=local)


def export(model: Any, program: Compiled, weights: Weights, folder: Path) -> None:
    """Write the trained program to `folder`, and `infer.tflite` for devices that do not train."""
    trained = program.with_weights(weights)
    compiler.assign(model, program.layout, trained.weights)
    trained.save(folder)
    files.write(folder / "infer.tflite", compiler.export_infer(model))


def versions() -> dict[str, str]:
    """Return the versions that decide what a compiled program is."""
    return {"tensorflow": tf.__version__, "keras": version("keras")}
