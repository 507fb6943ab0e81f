"""Fine-tuning: the round's model goes on to learn from labelled examples of the cloud's own, by the program's loss."""

from __future__ import annotations

from collections.abc import Iterable

from fedfleet.cloud.refine.plan import Made, Rows
from fedfleet.cloud.refine.student import Each, Student
from fedfleet.models.losses import LOSSES
from fedfleet.wire.codecs import Weights
from fedfleet.wire.examples import Examples


def each(loss: str) -> Each:
    """Return the program's loss by row."""
    return LOSSES[loss].each


def tuned(student: Student, made: Made, data: Examples, steps: Iterable[Rows], rates: list[float]) -> Weights:
    """Return the weights of `made` after so many steps on `data`."""
    return student.fit(made.weights, data.x, data.y, steps, rates)
