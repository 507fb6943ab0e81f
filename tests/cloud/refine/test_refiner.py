"""The whole refiner: one seed, one result, also over a kill; what does not fit together is refused before any round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from federations import World, weights, world

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.refine.plan import Made, Refine, Refined, Refining
from fedfleet.cloud.refine.refiner import refiner
from fedfleet.cloud.registry import versions
from fedfleet.cloud.settings import Rounds
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import DataError, ModelError, SettingsError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob

TUNE, DISTIL = Refining("tune", steps=20, batch=8, learning_rate=0.05), Refining("distil", steps=20, batch=8)
Make = Callable[..., Refine]


@pytest.fixture
def data(x: Any) -> Examples:
    """Labels that a dense layer can learn."""
    return Examples(x, (x[:, :4] @ np.eye(4)).argmax(axis=1).astype(np.int32))


@pytest.fixture
def make(dense: Any, compiled: Callable[..., Compiled], data: Examples) -> Make:
    """A refiner of the dense model, on the examples or their x."""

    def build(plan: Refining, seed: int = 0, **options: Any) -> Refine:
        given = data if plan.kind == "tune" else data.x
        return refiner(plan, compiled(), dense(), options.pop("data", given), seed, **options)

    return build


def made(compiled: Callable[..., Compiled], round_: int = 3) -> Made:
    moved = [compiled().weights + np.float32(0.1 * n) * weights() for n in range(3)]
    return Made(round_, compiled().weights, lambda: iter(moved))


@pytest.mark.parametrize("plan", [TUNE, DISTIL])
def test_one_seed_one_result(plan: Refining, make: Make, compiled: Callable[..., Compiled]) -> None:
    first = make(plan)(made(compiled))
    again = make(plan)
    again(made(compiled, 2))
    assert np.array_equal(again(made(compiled)).weights, first.weights)
    assert not np.array_equal(make(plan, seed=1)(made(compiled)).weights, first.weights)
    assert not np.array_equal(again(made(compiled, 4)).weights, first.weights)


def test_what_is_said_of_it(make: Make, compiled: Callable[..., Compiled], data: Examples) -> None:
    found = make(TUNE)(made(compiled))
    how = found.how
    assert (how.kind, how.steps, how.batch, how.learning_rate) == ("tune", 20, 8, 0.05)
    assert (how.replicas, how.examples, how.teachers, how.taken, how.why) == (1, 30, 0, True, "")
    assert how.averaged == Blob.of(compiled().weights.astype("<f4").tobytes()).digest
    assert make(DISTIL)(made(compiled)).how.teachers == 3
    score = evaluator(compiled(), data)
    assert score(found.weights)["loss"] < score(compiled().weights)["loss"] - 0.1


def test_a_gate_refuses_what_is_worse_and_the_model_stays(make: Make, compiled: Callable[..., Compiled]) -> None:
    held = Examples(np.eye(9, dtype=np.float32), np.zeros(9, np.int32))
    score = evaluator(compiled(), held)
    wrong = Examples(held.x, np.ones(9, np.int32))
    found = make(replace(TUNE, gate="loss"), evaluate=score, data=wrong)(made(compiled))
    assert np.array_equal(found.weights, compiled().weights)
    assert not found.how.taken and "worse than" in found.how.why and "not worse" not in found.how.why
    right = make(replace(TUNE, gate="loss"), evaluate=score, data=held)(made(compiled))
    assert right.how.taken and "not worse than" in right.how.why
    assert score(right.weights)["loss"] < score(compiled().weights)["loss"]


def test_without_a_teacher_nothing_is_taken(make: Make, compiled: Callable[..., Compiled]) -> None:
    found = make(DISTIL)(Made(1, compiled().weights, lambda: iter(())))
    assert (found.how.teachers, found.how.taken, found.how.why) == (0, False, "no model of this round's own")
    assert np.array_equal(found.weights, compiled().weights)


def test_weights_that_are_not_finite_are_never_taken(make: Make, compiled: Callable[..., Compiled]) -> None:
    broken = Made(1, compiled().weights, lambda: iter([compiled().weights * np.float32(np.inf)]))
    found = make(DISTIL)(broken)
    assert not found.how.taken and "not finite" in found.how.why
    assert np.array_equal(found.weights, compiled().weights)


@pytest.mark.parametrize("plan", [TUNE, DISTIL])
def test_killed_after_it_refined_a_fresh_aggregator_comes_to_the_same_bits(
    plan: Refining, make: Make, compiled: Callable[..., Compiled]
) -> None:
    """With a refiner of its own, as a new process has one."""
    rounds = Rounds(total=2, devices=3, deadline=1000.0)
    options = {"program": compiled().program, "rounds": rounds, "refining": plan}

    def killed(given: Made) -> Refined:
        make(plan)(given)
        raise KeyboardInterrupt

    with world(refine=make(plan), **options) as whole, world(refine=killed, **options) as cut:
        expected = whole.play()
        with pytest.raises(KeyboardInterrupt):
            cut.play()
        assert lineage(cut) == []
        cut.cloud_dies()
        cut.refine = make(plan)
        cut.cloud_starts()
        assert cut.play() == expected
        assert lineage(cut) == lineage(whole) and len(lineage(cut)) == 2


def lineage(found: World) -> list[Any]:
    return [(version.round, version.weights, version.refined) for version in versions(found.folder / "cloud")]


def test_data_that_does_not_fit_is_refused(make: Make, data: Examples) -> None:
    with pytest.raises(DataError, match=r"refine.data: examples have shape \[8\], the model takes \[9\]"):
        make(DISTIL, data=data.x[:, :8])
    with pytest.raises(DataError, match=r"refine.data: examples have shape \[8\], the model takes \[9\]"):
        make(TUNE, data=Examples(data.x[:, :8], data.y))
    with pytest.raises(DataError, match="refine.data: loss sparse_categorical_crossentropy takes class labels"):
        make(TUNE, data=Examples(data.x, data.x[:, :4]))
    with pytest.raises(DataError, match=r"refine.data: y row 0 \(from 0\) has label 4, outside 0..3"):
        make(TUNE, data=Examples(data.x, np.full(30, 4, np.int32)))
    with pytest.raises(DataError, match="refine.data: tune learns from labels, and there are none; distil needs none"):
        make(TUNE, data=data.x)


def test_labels_are_no_use_to_distil(make: Make, compiled: Callable[..., Compiled], data: Examples) -> None:
    plain, labelled = (make(DISTIL, data=each)(made(compiled)) for each in (data.x, data))
    assert np.array_equal(plain.weights, labelled.weights) and plain.how == labelled.how


def test_a_model_or_gate_that_is_not_the_programs_is_refused(
    dense: Any, compiled: Callable[..., Compiled], data: Examples, make: Make
) -> None:
    with pytest.raises(ModelError, match="the model is not the program's"):
        refiner(DISTIL, compiled(), dense("relu"), data.x)
    with pytest.raises(SettingsError, match="refine.gate 'rmse' is none of this model's: take accuracy or loss"):
        make(replace(TUNE, gate="rmse"))


def test_what_tensorflow_refuses_is_one_line(compiled: Callable[..., Compiled], data: Examples) -> None:
    import tensorflow as tf

    class Fussy(tf.keras.layers.Layer):  # type: ignore[misc, name-defined, unused-ignore]
        def call(self, inputs: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(tf.abs(inputs)), 9.0, "too large")]):
                return tf.identity(inputs)

    def build() -> Any:
        return tf.keras.Sequential([tf.keras.Input((9,)), Fussy(), tf.keras.layers.Dense(4)])

    far = np.concatenate([data.x[:8], np.full((22, 9), 99, np.float32)])
    refine = refiner(DISTIL, compiled(), build, far)
    with pytest.raises(ModelError, match="refining fails: .*too large.*; a smaller refine.batch takes less memory"):
        refine(made(compiled))
