from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from fedfleet.models.ops import LOWER, replay
from fedfleet.models.rewrite import pool_first
from fedfleet.models.trace import Trace, owner, trace, variable

layers = tf.keras.layers


def values(traced: Trace, model: Any, x: Any) -> Any:
    """The replayed output."""
    weights = [tf.convert_to_tensor(variable(w)) for w in model.trainable_weights]
    return replay(traced, tf.constant(x), weights)[traced.output].numpy()


def images(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_only_what_computes_is_left(stack: Any) -> None:
    model = stack(
        (6, 6, 1), layers.Conv2D(2, 3, activation="relu"), layers.Reshape((16, 2)), layers.Flatten(), layers.Dense(2)
    )
    traced = trace(model, 3)
    assert [node.op for node in traced.nodes if node.op not in {"Reshape", "Squeeze"}] == [
        "Conv2D", "BiasAdd", "Relu", "MatMul", "BiasAdd",
    ]  # fmt: skip
    assert sorted(traced.trainable.values()) == [0, 1, 2, 3]
    x = images(3, 6, 6, 1)
    np.testing.assert_allclose(values(traced, model, x), model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_called_functions_are_inlined(stack: Any) -> None:
    @tf.function
    def inner(x: Any) -> Any:
        return tf.tanh(x) + 1.0

    @tf.function
    def outer(x: Any) -> Any:
        return inner(inner(x) * 2.0)

    model = stack((4,), layers.Lambda(outer), layers.Dense(2))
    traced = trace(model, 2)
    assert [node.op for node in traced.nodes].count("Tanh") == 2
    assert not {node.op for node in traced.nodes} - set(LOWER)
    x = images(2, 4)
    np.testing.assert_allclose(values(traced, model, x), model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_what_does_not_depend_on_the_input_is_folded(stack: Any) -> None:
    model = stack((4,), layers.Lambda(lambda x: x * tf.sqrt(tf.cast(tf.shape(x)[1], tf.float32))), layers.Dense(2))
    traced = trace(model, 2)
    assert [node.op for node in traced.nodes] == ["Mul", "MatMul", "BiasAdd"]
    assert any(value.shape == () and value == 2 for value in traced.constants.values())


def test_frozen_weights_become_constants(stack: Any) -> None:
    model = stack((4,), layers.Dense(3, trainable=False), layers.Dense(2))
    traced = trace(model, 2)
    assert sorted(traced.trainable.values()) == [0, 1]
    x = images(2, 4)
    np.testing.assert_allclose(values(traced, model, x), model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_pooling_moves_before_bias_and_relu(stack: Any) -> None:
    model = stack(
        (6, 6, 1), layers.Conv2D(2, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(2)
    )
    before = trace(model, 3)
    after = pool_first(before)
    assert [n.op for n in before.nodes if n.op in {"Conv2D", "BiasAdd", "Relu", "MaxPool"}][:4] == [
        "Conv2D", "BiasAdd", "Relu", "MaxPool",
    ]  # fmt: skip
    assert [n.op for n in after.nodes if n.op in {"Conv2D", "BiasAdd", "Relu", "MaxPool"}][:4] == [
        "Conv2D", "MaxPool", "BiasAdd", "Relu",
    ]  # fmt: skip
    x = images(3, 6, 6, 1)
    np.testing.assert_array_equal(values(before, model, x), values(after, model, x))


def test_pooling_stays_where_another_layer_reads_what_it_reads() -> None:
    inside = tf.keras.Input((4, 4, 1))
    both = layers.Conv2D(2, 1, activation="relu")(inside)
    model = tf.keras.Model(inside, layers.Add()([both, layers.MaxPooling2D(2, strides=1, padding="same")(both)]))
    traced = trace(model, 2)
    assert [node.op for node in pool_first(traced).nodes] == [node.op for node in traced.nodes]


@pytest.mark.parametrize("nested", [False, True])
def test_a_node_knows_its_layer(stack: Any, nested: bool) -> None:
    last = layers.Dense(2, name="last")
    model = stack((4,), tf.keras.Sequential([tf.keras.Input((4,)), last]) if nested else last)
    traced = trace(model, 2)
    assert {owner(traced, node) for node in traced.nodes} == {"layer 'last'"}
    model(images(2, 4))
    assert {owner(traced, node) for node in trace(model, 2).nodes} == {"layer 'last'"}
