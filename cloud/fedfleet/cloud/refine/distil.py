"""Ensemble distillation on unlabelled data (FedDF; Lin et al. 2020, algorithm 1).

The student starts from the round's model and learns what all devices' models say together: the softmax of the mean of
their logits, by the Kullback-Leibler divergence from it (equation 1); the same with sigmoids where each output is a
probability of its own, and the mean of their outputs, by the squared error, where they are numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfleet.cloud.refine.plan import Made, Rows
from fedfleet.cloud.refine.student import Each, Student, Tensor
from fedfleet.models.losses import LOSSES
from fedfleet.wire.codecs import Weights

PROBABLE = {
    "Softmax": (tf.nn.softmax, LOSSES["categorical_crossentropy"].each),
    "Sigmoid": (tf.sigmoid, LOSSES["binary_crossentropy"].each),
}


def each(loss: str) -> Each:
    """Return how far a student's outputs are from its teachers', by row, for a program with that loss."""
    final = LOSSES[loss].final
    if final is None:
        return LOSSES["mean_squared_error"].each
    probabilities, entropy = PROBABLE[final]

    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        p = probabilities(teacher)
        return entropy(student, p) - entropy(teacher, p)

    return divergence


def taught(student: Student, made: Made, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Return the mean over all clients' models of what they say to `x`, and how many they are; one at a time."""
    total, teachers = np.zeros(0), 0
    for weights in made.clients():
        said = student.logits(student.outputs(weights, x)).astype(np.float64)
        total, teachers = (total + said if teachers else said), teachers + 1
    return (total / max(teachers, 1)).astype(np.float32), teachers


def distilled(
    student: Student, made: Made, x: NDArray[np.float32], steps: Iterable[Rows], rates: list[float]
) -> tuple[Weights, int]:
    """Return the weights of `made` after so many steps on `x`, and by how many teachers; only what is seen is asked."""
    rows = list(steps)
    seen, places = np.unique(np.concatenate(rows), return_inverse=True)
    teacher, teachers = taught(student, made, x[seen])
    if not teachers:
        return made.weights, 0
    ends = np.cumsum([len(each) for each in rows])[:-1]
    return student.fit(made.weights, x[seen], teacher, np.split(places.reshape(-1), ends), rates), teachers
