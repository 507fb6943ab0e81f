"""Scores of a global model, against plain NumPy."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedfleet.cloud.evaluate import evaluator, fits
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples


def forward(compiled: Compiled, weights: np.ndarray[Any, np.dtype[np.float32]], x: Any) -> Any:
    """The output of a stack of dense layers before the last activation, in float64."""
    tensors = [weights[e.offset : e.offset + e.size].reshape(e.shape).astype(np.float64) for e in compiled.layout]
    for kernel, bias in zip(tensors[::2], tensors[1::2]):
        x = x @ kernel + bias
        if bias is not tensors[-1]:
            x = np.maximum(x, 0)
    return x


@pytest.fixture(scope="module")
def regression() -> Compiled:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fedfleet.models import compiler, zoo

        return compiler.compile(zoo.tabular(4, None), "mean_squared_error", batch=8)


def moved(compiled: Compiled) -> Any:
    """Other weights than those that the program comes with."""
    return compiled.weights + np.random.default_rng(1).normal(0, 0.1, compiled.weights.size).astype(np.float32)


@pytest.mark.parametrize("count", [20, 8, 1])
def test_loss_and_accuracy(small: Compiled, examples: Examples, count: int) -> None:
    held = Examples(examples.x[:count], examples.y[:count])
    score = evaluator(small, held)
    for weights in (moved(small), small.weights):
        z = forward(small, weights, held.x.astype(np.float64))
        z -= z.max(axis=1, keepdims=True)
        each = np.log(np.exp(z).sum(axis=1)) - z[np.arange(count), held.y]
        found = score(weights)
        assert found["loss"] == pytest.approx(each.mean(), rel=1e-4)
        assert found["accuracy"] == pytest.approx((z.argmax(axis=1) == held.y).mean(), abs=1e-6)
        assert set(found) == {"loss", "accuracy"}


def test_rmse_in_units_of_the_data(regression: Compiled) -> None:
    random = np.random.default_rng(2)
    held = Examples(random.normal(size=(13, 4)).astype(np.float32), random.normal(size=(13, 1)).astype(np.float32))
    squares = (forward(regression, regression.weights, held.x.astype(np.float64)) - held.y) ** 2
    found = evaluator(regression, held, scale=125.0)(regression.weights)
    assert found["loss"] == pytest.approx(squares.mean(), rel=1e-4)
    assert found["rmse"] == pytest.approx(125.0 * np.sqrt(squares.mean()), rel=1e-4)


OTHERS = {
    "mean_absolute_error": (lambda out, y: np.abs(out - y).mean(), "mae", 125.0),
    "huber": (lambda out, y: np.abs(out - y).mean(), "mae", 125.0),
    "categorical_crossentropy": (lambda out, y: (out.argmax(1) == y.argmax(1)).mean(), "accuracy", 1.0),
    "binary_crossentropy": (lambda out, y: ((out > 0) == (y > 0.5)).mean(), "accuracy", 1.0),
}


@pytest.mark.parametrize("loss", OTHERS)
def test_every_loss_has_its_metric(loss: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fedfleet.models import compiler, zoo

        compiled = compiler.compile(zoo.tabular(4, None, targets=3), loss, batch=8)
    score, name, scale = OTHERS[loss]
    random = np.random.default_rng(3)
    y = np.eye(3, dtype=np.float32)[random.integers(0, 3, 21)]
    held = Examples(random.normal(size=(21, 4)).astype(np.float32), y)
    found = evaluator(compiled, held, scale=125.0)(compiled.weights)
    expected = score(forward(compiled, compiled.weights, held.x.astype(np.float64)), y) * scale
    assert set(found) == {"loss", name}
    assert found[name] == pytest.approx(expected, rel=1e-4)


def test_examples_that_do_not_fit_are_refused(small: Compiled, regression: Compiled, examples: Examples) -> None:
    targets = Examples(np.zeros((2, 4), np.float32), np.zeros((2, 1), np.float32))
    wrong = [
        (small, Examples(examples.x[:, :7], examples.y), r"examples have shape \[7\], the model takes \[300\]"),
        (small, Examples(examples.x, examples.x[:, :1]), "takes class labels; the data's y is float32"),
        (small, Examples(examples.x, examples.y + 1), r"has label 3, outside 0..2"),
        (small, Examples(examples.x[:0], examples.y[:0]), "there are no examples"),
        (small, Examples(examples.x * np.float32("nan"), examples.y), "row 0, column 0 .* is nan"),
        (
            regression,
            targets._replace(y=np.zeros(2, np.int32)),
            "takes targets, one number for each output; the data's y is int32",
        ),
        (
            regression,
            targets._replace(y=np.zeros((2, 3), np.float32)),
            r"targets have shape \[3\], the model's output \[",
        ),
    ]
    for compiled, bad, reason in wrong:
        with pytest.raises(DataError, match=reason):
            evaluator(compiled, bad)
    fits(regression, targets)
    with pytest.raises(DataError):
        fits(replace(regression, input_shape=(5,)), targets)
