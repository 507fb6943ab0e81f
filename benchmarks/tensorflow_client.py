"""TensorFlow alone: trains the small CNN as its users do, then prints the peak memory of its process in MiB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

EXAMPLES, BATCH = 64, 16


def cnn() -> Any:
    """The CNN of 105,866 weights."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def examples(device: int) -> tuple[Any, Any]:
    """What a device has: noise, and labels without a meaning."""
    random = np.random.default_rng(device)
    return random.random((EXAMPLES, 28, 28, 1), np.float32), random.integers(0, 10, EXAMPLES).astype(np.int32)


def train(model: Any, device: int = 0) -> None:
    """Two epochs."""
    x, y = examples(device)
    loss, optimiser = tf.keras.losses.SparseCategoricalCrossentropy(), tf.keras.optimizers.SGD(0.01, momentum=0.9)

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        variables = model.trainable_variables
        optimiser.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    compiled = tf.function(step)
    for _ in range(2):
        for at in range(0, EXAMPLES, BATCH):
            compiled(tf.constant(x[at : at + BATCH]), tf.constant(y[at : at + BATCH]))


def peak() -> float:
    """This process's peak resident memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


if __name__ == "__main__":
    train(cnn())
    print(peak())
