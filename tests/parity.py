"""How far a lowering, or a whole device program, is from TensorFlow's own values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled


def distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / max(np.linalg.norm(b), 1e-12))


def train(model: Any, compiled: Compiled, run: dict[str, Any], steps: int) -> float:
    """The distance after `steps` steps of both, relative to how far the weights have moved."""
    batch, weights = audit.examples(compiled, audit.vocabulary(model)), compiled.weights.copy()
    for step in range(steps):
        batch |= audit.seeds(run, step)
        weights = weights - np.float32(0.05) * audit.gradient(model, compiled.loss, batch)
        compiler.assign(model, compiled.layout, weights)
        audit.step(run, batch, learning_rate=0.05)
    moved = run["get"]()["weights"] - compiled.weights
    return distance(moved, weights - compiled.weights)


def normal(seed: int, *shape: int) -> Any:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


def gradients(function: Any, *tensors: Any) -> list[Any]:
    """The value, and the gradients by all tensors of a weighted sum of it."""
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
        total = tf.reduce_sum(value * normal(9, *value.shape))
    return [value, *tape.gradient(total, tensors, unconnected_gradients="zero")]


def same(mine: list[Any], theirs: list[Any], near: float = 1e-5) -> None:
    for a, b in zip(mine, theirs):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=near, atol=near)
