"""Products that a relu follows without a bias in between: the converter folds it away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import train

from fedfleet.models import audit, compiler
from fedfleet.models.rewrite import simplify
from fedfleet.models.trace import trace

K = tf.keras
layers = K.layers
SQUARE = "mean_squared_error"
# all of them have a relu inside
ACTIVATIONS = ["relu", "relu6", "selu", "softplus", "elu", "leaky_relu"]


def ops(*stack: Any) -> list[str]:
    """What becomes of the relus of a model."""
    simple = simplify(trace(K.Sequential([K.Input((6, 5, 3)), *stack]), 2))
    return [node.op for node in simple.nodes if "Relu" in node.op]


def plain(activation: str) -> Any:
    return layers.Dense(4, activation=activation, use_bias=False)


@pytest.mark.parametrize("shape", [(5,), (4, 3, 5)])
def test_activations_of_products_without_a_bias(shape: tuple[int, ...], run: Any) -> None:
    inside = K.Input(shape)
    branches = [plain(name)(plain(name)(inside)) for name in ACTIVATIONS]
    model = K.Model(inside, layers.Dense(3)(layers.Flatten()(layers.Concatenate()(branches))))
    compiled = compiler.compile(model, SQUARE, batch=3)
    functions = run(compiled)
    x = audit.examples(compiled)["x"]
    np.testing.assert_allclose(functions["infer"](x=x[:1])["output"], model(x[:1]), rtol=1e-4, atol=1e-5)
    assert train(model, compiled, functions, 3) < 1e-4


@pytest.mark.parametrize("shape", [(5,), (4, 3, 5)])
def test_the_loss_of_logits_without_a_bias(shape: tuple[int, ...], stack: Any, run: Any) -> None:
    model = stack(shape, plain("linear"))
    compiled = compiler.compile(model, "binary_crossentropy", batch=3)
    functions, batch = run(compiled), audit.examples(compiled)
    each = tf.nn.sigmoid_cross_entropy_with_logits(batch["y"], model(batch["x"])).numpy().reshape(3, -1).mean(1)
    assert functions["evaluate"](**batch)["loss"][0] == pytest.approx((each * batch["weight"]).sum(), rel=1e-5)
    assert audit.step(functions, batch) == pytest.approx(each[:2].mean(), rel=1e-5)  # the last row is masked


def test_relus_take_the_safe_form_where_they_must() -> None:
    assert ops(plain("relu")) == ["ReluOfProduct"]
    assert ops(plain("relu6")) == ["Relu6OfProduct"]
    assert ops(plain("linear"), layers.Reshape((30, 4)), layers.ReLU()) == ["ReluOfProduct"]
    assert ops(layers.Conv2D(2, 3, activation="relu", use_bias=False)) == ["ReluOfProduct"]
    assert ops(layers.Dense(4, activation="relu"), layers.Conv2D(2, 3, activation="relu6")) == ["Relu", "Relu6"]
    assert ops(layers.DepthwiseConv2D(3, activation="relu", use_bias=False)) == ["Relu"]
    frozen = plain("relu")
    frozen.trainable = False
    assert ops(frozen, layers.Dense(2)) == ["Relu"]
