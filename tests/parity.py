"""How far a device program drifts from TensorFlow's own gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled


def distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / max(np.linalg.norm(b), 1e-12))


def train(model: Any, compiled: Compiled, run: dict[str, Any], steps: int) -> float:
    """The distance after `steps` steps of both, relative to how far the weights have moved."""
    batch, weights = audit.examples(compiled), compiled.weights.copy()
    for _ in range(steps):
        weights = weights - np.float32(0.05) * audit.gradient(model, compiled.loss, batch)
        compiler.assign(model, compiled.layout, weights)
        run["train"](**batch, **audit.step_plan(0.05))
    moved = run["get"]()["weights"] - compiled.weights
    return distance(moved, weights - compiled.weights)
