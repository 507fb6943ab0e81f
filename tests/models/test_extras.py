"""What a model asks for besides its forward pass is refused, as is what no program could carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from fedfleet.models import audit, compiler, layout
from fedfleet.wire.errors import ModelError

K = tf.keras
layers = K.layers
SQUARE = "mean_squared_error"


class Looped(K.Model):  # type: ignore[misc]
    def train_step(self, data: Any) -> dict[str, Any]:
        return {"loss": 0.0}


class Fitted(K.Model):  # type: ignore[misc]
    def fit(self, *rest: Any, **named: Any) -> Any:
        return super().fit(*rest, **named)


class Subclass(K.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="mine")
        self.dense = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)


class Adds(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        self.add_loss(tf.reduce_mean(x))
        return x


def sequential(*stack: Any) -> Any:
    return K.Sequential([K.Input((4,)), *stack])


def functional(kind: Any) -> Any:
    x = K.Input((4,))
    return kind(x, layers.Dense(3)(x), name="net")


def attention() -> Any:
    x = K.Input((4, 3))
    return K.Model(x, layers.MultiHeadAttention(1, 2, kernel_constraint="max_norm", name="look")(x, x))


def recurrent() -> Any:
    return K.Sequential([K.Input((4, 2)), layers.GRU(3, recurrent_regularizer="l2", name="gru")])


def nested() -> Any:
    return sequential(K.Sequential([layers.Dense(3, bias_regularizer="l1", name="deep")], name="inner"))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "training loop": (lambda: functional(Looped), "model 'net': its train_step would not run on a device"),
    "fit": (lambda: functional(Fitted), "model 'net': its fit would not run on a device"),
    "subclass": (Subclass, "model 'mine' is a subclass without a graph of layers; wrap it"),
    "regularizer": (recurrent, "layer 'gru': its recurrent_regularizer would not act on a device; leave it out, a plan"),
    "inside a model": (nested, "layer 'deep': its bias_regularizer would not act on a device"),
    "constraint": (attention, "layer 'look': its kernel_constraint would not act on a device; leave it out"),
    "activity": (
        lambda: sequential(layers.Dense(3), layers.ActivityRegularization(0.1, name="calm")),
        "layer 'calm': its activity_regularizer would not act on a device; leave it out",
    ),
    "added loss": (lambda: sequential(layers.Dense(3), Adds(name="adds")), "layer 'adds': the loss that it adds would"),
    "sparse": (
        lambda: K.Sequential([K.Input((4,), sparse=True), layers.Dense(2)]),
        "input is sparse; a device program takes dense tensors only",
    ),
    "ragged": (
        lambda: K.Sequential([K.Input((4,), ragged=True), layers.ReLU(), layers.Dense(2)]),
        "input is ragged; a device program takes dense tensors only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_device_would_not_do_is_refused(name: str) -> None:
    build, says = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        compiler.compile(build(), SQUARE)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_subclass_that_is_wrapped_as_it_says_compiles() -> None:
    x = K.Input((4,))
    model = K.Model(x, Subclass()(x))
    audit.audit(model, compiler.compile(model, SQUARE))


def test_a_frozen_layer_may_have_what_would_move_nothing() -> None:
    model = sequential(layers.Dense(3, kernel_regularizer="l2", kernel_constraint="max_norm"), layers.Dense(2))
    model.layers[0].trainable = False
    assert compiler.compile(model, SQUARE, batch=2).weights.size == 8


@pytest.mark.parametrize("trainable", [True, False])
def test_weights_that_are_not_finite(trainable: bool) -> None:
    model = sequential(layers.Dense(3, name="spoilt"), layers.Dense(2))
    model.layers[0].trainable = trainable
    model.layers[0].set_weights([np.full((4, 3), np.nan, np.float32), np.zeros(3, np.float32)])
    with pytest.raises(ModelError, match=r"weight .*spoilt/kernel holds numbers that are not finite; train it again"):
        compiler.compile(model, SQUARE)


@pytest.mark.parametrize("local", [(), ("head",)])
def test_frozen_and_local_weights_are_bounded_before_anything_is_traced(
    local: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sequential(layers.Dense(3, trainable=False), layers.Dense(2), layers.Dense(2, name="head"))
    carried = 60 + 24 * len(local)
    monkeypatch.setattr(layout, "MAX_BLOB", carried)
    layout.layout(model, local)
    monkeypatch.setattr(layout, "MAX_BLOB", carried - 1)
    with pytest.raises(ModelError, match=f"has {carried} bytes of frozen and local weights, and a program carries at"):
        layout.layout(model, local)


def test_constants_of_other_kinds_are_bounded_before_they_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.ones((4, 500), np.float32)
    model = sequential(layers.Lambda(lambda x: tf.matmul(x, table)), layers.Dense(2))
    monkeypatch.setattr(compiler, "MAX_BLOB", 7999)
    monkeypatch.setattr(compiler, "emit", lambda source: pytest.fail("converted all the same"))
    with pytest.raises(ModelError, match="the program would have 8000 bytes, more than the 7999 that travel; make it"):
        compiler.compile(model, SQUARE)


def test_a_program_that_grew_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MAX_BLOB", 1000)
    with pytest.raises(ModelError, match=r"the program would have \d{5} bytes, more than the 1000 that travel"):
        compiler.compile(sequential(layers.Dense(2)), SQUARE, batch=1)
