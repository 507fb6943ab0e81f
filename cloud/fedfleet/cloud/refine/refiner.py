"""What refines a federation's models: the student, the cloud's data and the gate, tied together once for all rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfleet.cloud.evaluate import fits, measured, takes
from fedfleet.cloud.federation import Evaluate
from fedfleet.cloud.refine import distil, tune
from fedfleet.cloud.refine.choice import chosen
from fedfleet.cloud.refine.plan import Made, Refine, Refined, Refinement, Refining, batches
from fedfleet.cloud.refine.student import Student, halving
from fedfleet.models.compiled import Compiled
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import DataError, ModelError, SettingsError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob


def refiner(
    plan: Refining,
    compiled: Compiled,
    build: Callable[[], Any],
    data: Examples | NDArray[np.float32],
    seed: int = 0,
    evaluate: Evaluate | None = None,
) -> Refine:
    """Return what refines models of `compiled` as `plan` says, on `data`: examples, or their x alone for `distil`.

    `build` makes the Keras model; `evaluate` is what a gate goes by. The same round, seed and weights give the same
    refined weights. Raises SettingsError, DataError, ModelError for what does not fit together.
    """
    _require(plan, compiled, data)
    x = data.x if isinstance(data, Examples) else data
    labelled = data if isinstance(data, Examples) and plan.kind == "tune" else None
    student = Student(compiled, build, (tune if labelled else distil).each(compiled.loss), plan.replicas)
    student.require(x)
    rates = halving(plan.learning_rate, plan.steps)

    def run(made: Made) -> tuple[Weights, int]:
        steps = batches(len(x), plan, seed, made.round)
        if labelled:
            return tune.tuned(student, made, labelled, steps, rates), 0
        return distil.distilled(student, made, x, steps, rates)

    def refine(made: Made) -> Refined:
        try:
            after, teachers = run(made)
        except tf.errors.OpError as error:
            first = str(error.message).splitlines()[0]
            raise ModelError(f"refining fails: {first[:200]}; a smaller refine.batch takes less memory") from None
        taken, why = False, "no model of this round's own"
        if labelled or teachers:
            taken, why = chosen(made.weights, after, plan.gate, evaluate)
        averaged = Blob.of(made.weights.astype("<f4").tobytes()).digest
        asked = (plan.kind, plan.steps, plan.batch, plan.learning_rate, student.replicas)
        how = Refinement(*asked, len(x), teachers, averaged, taken, why)
        return Refined(after if taken else made.weights, how)

    return refine


def _require(plan: Refining, compiled: Compiled, data: Examples | NDArray[np.float32]) -> None:
    """Raise SettingsError or DataError unless data, gate and program go together."""
    if plan.gate not in ("", "loss", name := measured(compiled).name):
        raise SettingsError(f"refine.gate {plan.gate!r} is none of this model's: take {name} or loss")
    try:
        if plan.kind == "distil":
            takes(compiled, data.x if isinstance(data, Examples) else data)
        elif isinstance(data, Examples):
            fits(compiled, data)
        else:
            raise DataError("tune learns from labels, and there are none; distil needs none")
    except DataError as error:
        raise DataError(f"refine.data: {error}") from None
