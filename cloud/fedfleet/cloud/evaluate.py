"""Central evaluation: the device program's own `evaluate`, on data that the cloud holds and no device has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.federated import Measure
from fedfleet.models.compiled import Compiled
from fedfleet.models.runtime import interpreter
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples, check

LABELS = "sparse_categorical_crossentropy"
METRICS = {"mean_squared_error": "rmse", "mean_absolute_error": "mae", "huber": "mae"}  # all others: accuracy


def evaluator(compiled: Compiled, examples: Examples, scale: float = 1.0) -> Callable[[Weights], dict[str, float]]:
    """Return what scores weights on `examples`: loss, and accuracy, rmse or mae (times `scale`, for natural units).

    It takes all weights, or the shared ones alone: local layers then are what the program starts them from.
    Raises DataError where the examples do not fit the program.
    """
    fits(compiled, examples)
    measure = measured(compiled, scale)
    runner = interpreter(compiled.program)
    load, run = runner.get_signature_runner("set"), runner.get_signature_runner("evaluate")
    load(weights=compiled.weights)  # so that the runtime prepares itself, and says what it has to say, here
    batches = [padded(examples, start, compiled.batch) for start in range(0, len(examples.x), compiled.batch)]

    def evaluate(weights: Weights) -> dict[str, float]:
        load(weights=compiled.with_weights(weights.astype(np.float32)).weights)
        loss = metric = 0.0
        for batch in batches:
            found = run(**batch)
            loss += float(found["loss"][0])
            metric += float(found["metric"][0])
        mean = metric / len(examples.x)
        return {"loss": loss / len(examples.x), measure.name: measure.of(mean)}

    return evaluate


def measured(compiled: Compiled, scale: float = 1.0) -> Measure:
    """Return what the metric of `compiled` is."""
    return Measure(METRICS.get(compiled.loss, "accuracy"), scale)


def fits(compiled: Compiled, examples: Examples) -> None:
    """Raise DataError unless the program can take `examples`: shapes, kind and range of the targets."""
    takes(compiled, examples.x)
    whole = np.issubdtype(examples.y.dtype, np.integer)
    if whole != _classifies(compiled):
        want = "class labels" if _classifies(compiled) else "targets, one number for each output"
        raise DataError(f"loss {compiled.loss} takes {want}; the data's y is {examples.y.dtype.name}")
    if not whole and tuple(examples.y.shape[1:]) != compiled.output_shape:
        have = list(examples.y.shape[1:])
        raise DataError(f"targets have shape {have}, the model's output {list(compiled.output_shape)}")
    check(examples, classes=compiled.output_shape[-1] if whole else None)


def takes(compiled: Compiled, x: NDArray[np.float32]) -> None:
    """Raise DataError unless the program can be given `x`."""
    inside = tuple(x.shape[1:])
    if inside != compiled.input_shape:
        raise DataError(f"examples have shape {list(inside)}, the model takes {list(compiled.input_shape)}")


def _classifies(compiled: Compiled) -> bool:
    return compiled.loss == LABELS


def padded(examples: Examples, start: int, size: int) -> dict[str, NDArray[Any]]:
    """Return x, y and weight of the `size` examples from `start` on, filled up with zeros that do not count."""
    x, y = examples.x[start : start + size], examples.y[start : start + size]
    missing = size - len(x)
    return {
        "x": np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)),
        "y": np.pad(y, [(0, missing)] + [(0, 0)] * (y.ndim - 1)),
        "weight": np.pad(np.ones(len(x), np.float32), (0, missing)),
    }
