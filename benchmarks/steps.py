"""One training step both ways, as the docstring of step_time.py says. Loads TensorFlow."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fedfleet.edge.runtime import Program
from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled
from fedfleet.models.zoo import Ready

BATCH, RATE, MOMENTUM = 16, 0.01, 0.9
BLOCK = 0.15  # seconds
STEPS = (5, 400)
LOSSES = {
    "sparse_categorical_crossentropy": tf.keras.losses.SparseCategoricalCrossentropy,
    "mean_squared_error": tf.keras.losses.MeanSquaredError,
}
Step = Callable[[], float]


class Timed(NamedTuple):
    """One model, in milliseconds a step by lap."""

    model: str
    parameters: int
    tensorflow: list[float]
    device: list[float]

    @property
    def ratios(self) -> list[float]:
        """The device's time by TensorFlow's, lap by lap."""
        return [mine / theirs for mine, theirs in zip(self.device, self.tensorflow, strict=True)]


def tensorflow_step(model: Any, loss: str, batch: Mapping[str, Any]) -> Step:
    """The step that a user of TensorFlow writes."""
    measure, optimiser = LOSSES[loss](), tf.keras.optimizers.SGD(RATE, momentum=MOMENTUM)
    x, y = tf.constant(batch["x"]), tf.constant(batch["y"])

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = measure(y, model(x, training=False))
        variables = model.trainable_variables
        optimiser.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value

    compiled = tf.function(step, jit_compile=False)
    return lambda: float(compiled(x, y))


def device_step(compiled: Compiled, batch: Mapping[str, Any]) -> Step:
    """The step that a device runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program"
        path.write_bytes(compiled.program)
        program = Program(path, compiled.digest)
    program.set(compiled.weights)
    plan = {"learning_rate": np.array([RATE], np.float32), "momentum": np.array([MOMENTUM], np.float32)}
    return lambda: program.train(**batch, **plan)


def timed(name: str, ready: Ready, laps: int) -> Timed:
    """One model, both ways."""
    model, loss = ready.build(), ready.loss
    compiled = compiler.compile(model, loss, batch=BATCH)
    batch = audit.examples(compiled) | {"weight": np.ones(BATCH, np.float32)}
    steps = tensorflow_step(model, loss, batch), device_step(compiled, batch)
    counts = [_block_size(step) for step in steps]
    found: tuple[list[float], list[float]] = ([], [])
    for lap in range(laps):
        for side in (0, 1) if lap % 2 == 0 else (1, 0):
            found[side].append(_block(steps[side], counts[side]))
    return Timed(name, int(compiled.weights.size), *found)


def _block_size(step: Step) -> int:
    """How many steps fill a block; warms up, too."""
    step()
    typical = min(_block(step, 1) for _ in range(5)) / 1e3
    return int(min(max(BLOCK / typical, STEPS[0]), STEPS[1]))


def _block(step: Step, count: int) -> float:
    """The median time of `count` steps, in milliseconds; one more comes first, to bring the caches back."""
    step()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def one_thread() -> None:
    """Keep TensorFlow to one thread; before anything is computed."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
