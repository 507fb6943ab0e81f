"""Fifty steps on the LiteRT runtime against TensorFlow's own gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import distance, train

from fedfleet.models import audit, compiler, zoo

layers = tf.keras.layers
CROSS, SQUARE = "sparse_categorical_crossentropy", "mean_squared_error"
SMOOTH = {"turbofan", "tabular", "vibration"}

STACKS: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]], str]] = {
    "dense": ((7,), lambda: [layers.Dense(3)], CROSS),
    "dense no bias": ((7,), lambda: [layers.Dense(3, use_bias=False)], SQUARE),
    "dense relu": ((7,), lambda: [layers.Dense(9, activation="relu"), layers.Dense(3)], CROSS),
    "dense tanh": ((7,), lambda: [layers.Dense(9, activation="tanh"), layers.Dense(3)], CROSS),
    "dense sigmoid": ((7,), lambda: [layers.Dense(9, activation="sigmoid"), layers.Dense(1)], SQUARE),
    "softmax at the end": ((7,), lambda: [layers.Dense(4, activation="softmax")], CROSS),
    "softmax inside": ((7,), lambda: [layers.Dense(4, activation="softmax"), layers.Dense(2)], SQUARE),
    "dense on a matrix": (
        (5, 6),
        lambda: [layers.Dense(4, activation="relu"), layers.Flatten(), layers.Dense(2)],
        SQUARE,
    ),
    "matrix out": ((5, 6), lambda: [layers.Flatten(), layers.Dense(6), layers.Reshape((2, 3))], SQUARE),
    "conv valid": ((6, 7, 2), lambda: [layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(3)], CROSS),
    "conv same": ((6, 7, 2), lambda: [layers.Conv2D(3, 3, padding="same"), layers.Flatten(), layers.Dense(3)], CROSS),
    "conv stride": (
        (9, 8, 2),
        lambda: [
            layers.Conv2D(4, 3, padding="same", activation="tanh"),
            layers.Conv2D(3, 3, strides=2, padding="same"),
            layers.Conv2D(2, 2, strides=(1, 2)),
            layers.Flatten(),
            layers.Dense(3),
        ],
        CROSS,
    ),
    "conv conv": (
        (8, 8, 3),
        lambda: [
            layers.Conv2D(8, 3, padding="same", activation="tanh"),
            layers.Conv2D(12, 3, padding="same", activation="tanh"),
            layers.Conv2D(4, 5),
            layers.Flatten(),
            layers.Dense(3),
        ],
        CROSS,
    ),
    "conv pool": (
        (7, 9, 1),
        lambda: [
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3),
        ],
        CROSS,
    ),
    "pool overlapping": (
        (7, 8, 2),
        lambda: [layers.Conv2D(4, 2), layers.MaxPooling2D(3, strides=2, padding="same"), layers.Flatten()],
        SQUARE,
    ),
    "conv1d": (
        (12, 3),
        lambda: [
            layers.Conv1D(4, 3, activation="tanh"),
            layers.Conv1D(4, 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(1),
        ],
        SQUARE,
    ),
    "rescaling": (
        (4, 4, 1),
        lambda: [layers.Rescaling(1 / 4, offset=-0.5), layers.Flatten(), layers.Dense(3)],
        CROSS,
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_fifty_steps_of_a_stack(name: str, stack: Any, run: Any) -> None:
    shape, build, loss = STACKS[name]
    model = stack(shape, *build())
    compiled = compiler.compile(model, loss, batch=5)
    assert train(model, compiled, run(compiled), 50) < 1e-4


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_model_of_the_zoo_steps_like_tensorflow(name: str, run: Any) -> None:
    model = zoo.ZOO[name].build()
    compiled = compiler.compile(model, zoo.ZOO[name].loss, batch=4)
    assert audit.audit(model, compiled).difference < 1e-4
    functions, x = run(compiled), audit.examples(compiled)["x"][:1]
    np.testing.assert_allclose(functions["infer"](x=x)["output"], model(x).numpy(), rtol=1e-4, atol=1e-5)
    # with pooling, two maxima that differ in the last bit may fall out differently, and steps then drift apart
    if name in SMOOTH:
        assert train(model, compiled, functions, 50) < 1e-4


def test_fifty_steps_of_a_pooling_network_one_by_one(run: Any) -> None:
    # two maxima that differ in the last bit may fall out differently, so each step starts from the same weights
    model = zoo.digits()
    compiled = compiler.compile(model, CROSS)
    batch, weights, functions, apart = audit.examples(compiled), compiled.weights, run(compiled), []
    for _ in range(50):
        compiler.assign(model, compiled.layout, weights)
        gradient = audit.gradient(model, CROSS, batch)
        functions["set"](weights=weights)
        audit.step(functions, batch, learning_rate=1024.0)
        apart.append(distance((weights - functions["get"]()["weights"].astype(np.float64)) / 1024, gradient))
        weights = weights - np.float32(0.05) * gradient
    assert sorted(apart)[-3] < 1e-4, sorted(apart)[-5:]


def test_a_functional_model_with_a_branch(run: Any) -> None:
    inside = tf.keras.Input((6,))
    left = layers.Dense(5, activation="relu", kernel_initializer=tf.keras.initializers.GlorotUniform(1))(inside)
    right = layers.Dense(5, activation="tanh", kernel_initializer=tf.keras.initializers.GlorotUniform(2))(inside)
    outside = layers.Dense(3, kernel_initializer=tf.keras.initializers.GlorotUniform(3))(layers.Add()([left, right]))
    model = tf.keras.Model(inside, outside)
    compiled = compiler.compile(model, CROSS, batch=4)
    assert train(model, compiled, run(compiled), 50) < 1e-4


def test_frozen_weights_stay(stack: Any, run: Any) -> None:
    frozen = layers.Dense(5, activation="tanh", trainable=False)
    model = stack((4,), frozen, layers.Dense(2))
    compiled = compiler.compile(model, CROSS, batch=3)
    assert [entry.shape for entry in compiled.layout] == [(5, 2), (2,)]
    assert train(model, compiled, run(compiled), 50) < 1e-4


def test_a_layer_used_twice(stack: Any, run: Any) -> None:
    twice = layers.Dense(4, activation="tanh")
    model = stack((4,), twice, layers.Flatten(), twice, layers.Dense(2))
    compiled = compiler.compile(model, CROSS, batch=3)
    assert len(compiled.layout) == 4
    assert train(model, compiled, run(compiled), 50) < 1e-4
