"""What refining should come to, by plain NumPy in float64: a dense layer, its losses' gradients, Adam, the schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def outputs(weights: Any, x: Any, classes: int = 4) -> Array:
    """x W + b; the flat weights have the kernel first."""
    flat = np.asarray(weights, np.float64)
    return np.asarray(x, np.float64) @ flat[:-classes].reshape(-1, classes) + flat[-classes:]


def softmax(z: Array) -> Array:
    grown = np.exp(z - z.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def gradient(x: Any, by_output: Array) -> Array:
    """Of the flat weights, where the mean loss has the gradient `by_output` / B by the outputs [B, C]."""
    rows = np.asarray(x, np.float64)
    return np.concatenate([(rows.T @ by_output / len(rows)).ravel(), by_output.mean(axis=0)])


def adam(weights: Any, gradients: Iterable[Any], rates: Sequence[float]) -> Array:
    """Kingma and Ba 2015, algorithm 1, line by line; `gradients` are functions of the weights."""
    w, m, v = np.asarray(weights, np.float64), 0.0, 0.0
    for t, (of, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = of(w)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return np.asarray(w)
