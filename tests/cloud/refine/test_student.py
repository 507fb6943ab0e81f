"""The student: steps on labels against plain NumPy, the same on many replicas, and models that are not the program's."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from by_hand import adam, gradient, outputs, softmax
from processes import environment

from fedfleet.cloud.refine import tune
from fedfleet.cloud.refine.plan import Made, Refining, batches
from fedfleet.cloud.refine.student import COMPARED, Student, halving
from fedfleet.models import compiler
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import ModelError
from fedfleet.wire.examples import Examples

LOSS = "sparse_categorical_crossentropy"


def test_tuning_goes_on_by_the_programs_loss(dense: Any, compiled: Callable[..., Compiled], x: Any) -> None:
    program, y = compiled(), np.random.default_rng(1).integers(0, 4, len(x)).astype(np.int32)
    plan = Refining("tune", steps=6, batch=7, learning_rate=0.02)
    rates = halving(plan.learning_rate, plan.steps)
    student = Student(program, dense(), tune.each(LOSS))
    steps = batches(len(x), plan, 0, 2)
    found = tune.tuned(student, Made(2, program.weights, lambda: iter(())), Examples(x, y), steps, rates)

    def gradients() -> Iterator[Any]:
        for rows in batches(len(x), plan, 0, 2):
            yield lambda w, rows=rows: gradient(x[rows], softmax(outputs(w, x[rows])) - np.eye(4)[y[rows]])

    np.testing.assert_allclose(found, adam(program.weights, gradients(), rates), atol=2e-6)


def test_the_rate_falls_to_nothing_by_half_a_cosine() -> None:
    assert halving(0.4, 4) == pytest.approx([0.4, 0.2 + 0.2 * 2**-0.5, 0.2, 0.2 - 0.2 * 2**-0.5])
    assert halving(0.4, 1) == [0.4]


def test_each_fit_begins_anew(dense: Any, compiled: Callable[..., Compiled], x: Any) -> None:
    """Neither weights nor moments of an earlier one are left in it."""
    program, y = compiled(), np.zeros(len(x), np.int32)
    student = Student(program, dense(), tune.each(LOSS))

    def fit() -> Any:
        return student.fit(program.weights, x, y, [np.arange(30)] * 3, halving(0.01, 3))

    first = fit()
    student.outputs(program.weights * 2, x)
    assert np.array_equal(first, fit())
    np.testing.assert_allclose(student.outputs(first, x), outputs(first, x), atol=1e-5)


def test_probabilities_that_end_a_model_learn_alike(dense: Any, compiled: Callable[..., Compiled], x: Any) -> None:
    y, steps = np.arange(30, dtype=np.int32) % 4, [np.arange(30)] * 4
    fitted = []
    for activation in (None, "softmax"):
        student = Student(compiled(LOSS, activation), dense(activation), tune.each(LOSS))
        fitted.append(student.fit(compiled().weights, x, y, steps, halving(0.05, 4)))
    np.testing.assert_allclose(*fitted, atol=1e-5)


def test_layers_that_drop_out_do_not(compiled: Callable[..., Compiled], dense: Any, x: Any) -> None:
    build = dense(None, lambda: tf.keras.layers.Dropout(0.9))
    student = Student(compiled(), build, tune.each(LOSS))
    plain = Student(compiled(), dense(), tune.each(LOSS))
    y, steps = np.zeros(30, np.int32), [np.arange(30)] * 2
    assert np.array_equal(*(each.fit(compiled().weights, x, y, steps, [0.01, 0.01]) for each in (student, plain)))


MANY = """
import sys, numpy as np
sys.path[:0] = {path!r}
from fedfleet.cloud.replicas import mirrored
mirrored({replicas})
import tensorflow as tf
from fedfleet.cloud.refine import distil
from fedfleet.cloud.refine.student import Student, halving
from fedfleet.models import compiler
L = tf.keras.layers
def build():
    return tf.keras.Sequential([tf.keras.Input((9,)), L.Embedding(5, 3), L.Flatten(), L.Dense(4)])
program = compiler.compile(build(), "sparse_categorical_crossentropy", batch=8)
random = np.random.default_rng(0)
program = program.with_weights(random.normal(size=program.weights.size).astype(np.float32))
x = random.integers(0, 5, (2500, 9)).astype(np.float32)
student = Student(program, build, distil.each(program.loss), {replicas})
student.require(x)
said = student.outputs(program.weights, x)
steps = [np.arange(7) + 10 * n for n in range(12)]
found = student.fit(program.weights * 0.5, x, said, steps, halving(0.01, 12))
again = student.fit(program.weights * 0.5, x, said, steps, halving(0.01, 12))
assert np.array_equal(found, again) and student.replicas == {replicas}
np.savez({out!r}, said=said, found=found)
"""


def test_replicas_split_the_work_and_agree(tmp_path: Path) -> None:
    """Each in a process of its own: the parts of a CPU are decided on once. Seven rows do not go into three."""
    for replicas in (1, 3):
        code = MANY.format(path=sys.path, replicas=replicas, out=str(tmp_path / f"{replicas}.npz"))
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    one, other = (np.load(tmp_path / f"{replicas}.npz") for replicas in (1, 3))
    assert one["said"].shape == (2500, 4)
    np.testing.assert_allclose(other["said"], one["said"], atol=1e-5)
    np.testing.assert_allclose(other["found"], one["found"], atol=1e-5)


def test_frozen_kernels_are_as_the_program_has_them(x: Any) -> None:
    wide = np.tile(x, (1, 15))[:, :128]

    def build() -> Any:
        first = tf.keras.layers.Dense(64, kernel_initializer=tf.keras.initializers.RandomNormal(seed=1))
        first.trainable = False
        return tf.keras.Sequential([tf.keras.Input((128,)), first, tf.keras.layers.Dense(4)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, rounded = (compiler.compile(build(), LOSS, batch=8, frozen=form) for form in ("float32", "int8"))
    said = []
    for program in (whole, rounded):
        student = Student(program, build, tune.each(LOSS))
        student.require(wide)
        said.append(student.outputs(whole.weights, wide))
    assert 1e-6 < np.abs(said[0] - said[1]).max() < 0.1


def test_a_model_that_is_not_the_programs_is_refused(dense: Any, compiled: Callable[..., Compiled], x: Any) -> None:
    student = Student(compiled(), dense("tanh"), tune.each(LOSS))
    with pytest.raises(ModelError, match="not the program's: it gives something else for the same weights; name the"):
        student.require(x)
    Student(compiled(), dense(), tune.each(LOSS)).require(x[: COMPARED - 1])
    with pytest.raises(ModelError, match=r"the model takes \[8\] and gives \[4\], the program takes \[9\] and gives"):
        Student(compiled(), dense(inputs=8), tune.each(LOSS))
    deeper = dense(None, lambda: tf.keras.layers.Dense(9))
    with pytest.raises(ModelError, match="the layout is not the model's"):
        Student(compiled(), deeper, tune.each(LOSS))


def test_local_layers_are_refused() -> None:
    def build() -> Any:
        layers = [tf.keras.layers.Dense(3, name="shared"), tf.keras.layers.Dense(4, name="own")]
        return tf.keras.Sequential([tf.keras.Input((9,)), *layers])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = compiler.compile(build(), LOSS, batch=8, local=["own"])
    with pytest.raises(ModelError, match="local layers cannot be refined: the cloud does not have them"):
        Student(program, build, tune.each(LOSS))
