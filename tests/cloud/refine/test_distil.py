"""Distillation against plain NumPy: what the teachers say together, and where the first steps lead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from by_hand import adam, gradient, outputs, sigmoid, softmax

from fedfleet.cloud.refine import distil
from fedfleet.cloud.refine.plan import Made, Refining, batches
from fedfleet.cloud.refine.student import Student, halving
from fedfleet.models.compiled import Compiled

LOSSES = {
    "sparse_categorical_crossentropy": softmax,
    "categorical_crossentropy": softmax,
    "binary_crossentropy": sigmoid,
    "mean_squared_error": None,
    "huber": None,
}


def teachers(compiled: Compiled, count: int = 3) -> list[Any]:
    random = np.random.default_rng(8)
    return [compiled.weights + random.normal(0, 0.3, 40).astype(np.float32) for _ in range(count)]


def by_output(loss: str, z: Any, teacher: Any) -> Any:
    """The gradient of a row's loss by the student's outputs z: of KL(p || q), of its mean by output, of the mean square.

    d/dz sum p (log p - log softmax(z)) = softmax(z) - p, and with sigmoids alike, each divided by the four outputs.
    """
    squash = LOSSES[loss]
    if squash is None:
        return 2 * (z - teacher) / 4
    return (squash(z) - squash(teacher)) / (1 if squash is softmax else 4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("steps", [1, 5])
def test_steps_are_those_of_the_paper(
    loss: str, steps: int, dense: Any, compiled: Callable[..., Compiled], x: Any
) -> None:
    program = compiled(loss)
    plan, others = Refining("distil", steps=steps, batch=8, learning_rate=0.01), teachers(program)
    student = Student(program, dense(), distil.each(loss))
    made = Made(7, program.weights, lambda: iter(others))
    rates = halving(plan.learning_rate, steps)
    found, count = distil.distilled(student, made, x, batches(len(x), plan, 5, 7), rates)
    mean = np.mean([outputs(weights, x) for weights in others], axis=0)

    def gradients() -> Iterator[Any]:
        for rows in batches(len(x), plan, 5, 7):
            yield lambda w, rows=rows: gradient(x[rows], by_output(loss, outputs(w, x[rows]), mean[rows]))

    expected = adam(program.weights, gradients(), rates)
    assert count == 3
    assert np.abs(expected - program.weights).max() > 0.005
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("loss", "activation", "squash"),
    [("sparse_categorical_crossentropy", "softmax", softmax), ("binary_crossentropy", "sigmoid", sigmoid)],
)
def test_probabilities_are_taken_back_to_their_logits(
    loss: str, activation: str, squash: Any, dense: Any, compiled: Callable[..., Compiled], x: Any
) -> None:
    """A mean of probabilities would be another teacher."""
    program = compiled(loss, activation)
    student = Student(program, dense(activation), distil.each(loss))
    others = [3 * weights for weights in teachers(program)]
    logits, count = distil.taught(student, Made(1, program.weights, lambda: iter(others)), x)
    mean = np.mean([outputs(weights, x) for weights in others], axis=0)
    np.testing.assert_allclose(squash(logits.astype(np.float64)), squash(mean), atol=1e-5)
    average = np.mean([squash(outputs(weights, x)) for weights in others], axis=0)
    assert count == 3 and np.abs(squash(mean) - average).max() > 0.05


def test_the_divergence_is_zero_for_a_student_that_says_the_same() -> None:
    z = np.array([[2.0, -1.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    for loss in LOSSES:
        each = distil.each(loss)
        np.testing.assert_allclose(each(z, z), [0, 0], atol=1e-6)
        assert (np.asarray(each(z + np.float32([1, 0, 0, 0]), z)) > 1e-4).all()


def test_the_divergence_in_figures() -> None:
    p, q = np.array([0.5, 0.25, 0.125, 0.125]), np.array([0.25, 0.25, 0.25, 0.25])
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    found = distil.each("sparse_categorical_crossentropy")(
        np.log(q[None], dtype=np.float32), np.log(p[None], dtype="f4")
    )
    assert float(found[0]) == pytest.approx(expected, rel=1e-5)


def test_only_rows_that_are_seen_are_asked_and_without_teachers_nothing_moves(
    dense: Any, compiled: Callable[..., Compiled], x: Any
) -> None:
    program = compiled()
    student = Student(program, dense(), distil.each(program.loss))
    steps, rates = [np.array([3, 1]), np.array([1, 4])], [0.01, 0.01]
    broken = x.copy()
    broken[[0, 2, *range(5, 30)]] = np.nan
    made = Made(1, program.weights, lambda: iter(teachers(program)))
    found, _ = distil.distilled(student, made, broken, iter(steps), rates)
    assert np.isfinite(found).all() and not np.array_equal(found, program.weights)
    alone, none = distil.distilled(student, made._replace(clients=lambda: iter(())), x, iter(steps), rates)
    assert none == 0 and np.array_equal(alone, program.weights)
