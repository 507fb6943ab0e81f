"""Recurrent layers, embeddings and attention on the LiteRT runtime against TensorFlow's gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import gradients, normal, same, train

from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled
from fedfleet.models.contract import einsum
from fedfleet.models.logic import choose
from fedfleet.models.lookup import rows
from fedfleet.models.ops import replay
from fedfleet.models.rewrite import hoist, once, simplify
from fedfleet.models.shared import bias, matrix
from fedfleet.models.trace import trace, variable
from fedfleet.models.unroll import everywhere, unrolled

K = tf.keras
layers = K.layers
SQUARE = "mean_squared_error"
STEPS, WORDS = (4, 3), (5,)


def attending(layer: Any, **named: Any) -> Any:
    """A model whose layer looks from one sequence at another."""
    inside = K.Input(STEPS)
    x, y = layers.Dense(6)(inside), layers.Dense(6, "tanh")(inside)
    seen = layer(x, y, **named) if isinstance(layer, layers.MultiHeadAttention) else layer([x, y])
    return K.Model(inside, layers.Dense(2)(layers.Flatten()(seen)))


def stacked(shape: tuple[int, ...], *stack: Any, dtype: str = "float32") -> Any:
    return K.Sequential([K.Input(shape, dtype=dtype), *stack, layers.Flatten(), layers.Dense(2)])


MODELS: dict[str, Callable[[], Any]] = {
    "SimpleRNN": lambda: stacked(STEPS, layers.SimpleRNN(3)),
    "GRU": lambda: stacked(STEPS, layers.GRU(3)),
    "GRU resets before": lambda: stacked(STEPS, layers.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid")),
    "LSTM": lambda: stacked(STEPS, layers.LSTM(3)),
    "LSTM by steps": lambda: stacked(
        STEPS, layers.LSTM(3, return_sequences=True, go_backwards=True), layers.SimpleRNN(3)
    ),
    "Bidirectional": lambda: stacked(STEPS, layers.Bidirectional(layers.GRU(2, return_sequences=True))),
    "cells": lambda: stacked(STEPS, layers.RNN([layers.GRUCell(2), layers.LSTMCell(3)])),
    "TimeDistributed": lambda: stacked((4, 5, 2), layers.TimeDistributed(layers.Conv1D(2, 3))),
    "Embedding": lambda: stacked(WORDS, layers.Embedding(7, 3)),
    "Embedding of int32": lambda: stacked(WORDS, layers.Embedding(7, 3), layers.Conv1D(2, 2), dtype="int32"),
    "Embedding with a mask": lambda: stacked(WORDS, layers.Embedding(4, 3, mask_zero=True), layers.LSTM(3)),
    "MultiHeadAttention": lambda: attending(layers.MultiHeadAttention(2, 3)),
    "MultiHeadAttention causal": lambda: attending(layers.MultiHeadAttention(2, 3), use_causal_mask=True),
    "Attention": lambda: attending(layers.Attention(use_scale=True)),
    "AdditiveAttention": lambda: attending(layers.AdditiveAttention()),
    "Dot": lambda: attending(layers.Dot(axes=2)),
    "Dot of units": lambda: attending(layers.Dot(axes=1, normalize=True)),
}


def random(model: Any) -> Any:
    """The model with random weights, biases too."""
    numbers = np.random.default_rng(1)
    for weight in model.trainable_weights:
        scale = 1.0 / np.sqrt(np.prod(weight.shape[:-1]) + 1)
        weight.assign(numbers.normal(0, scale, tuple(weight.shape)).astype(np.float32))
    return model


def prepared(name: str) -> tuple[Any, Compiled]:
    model = random(MODELS[name]())
    return model, compiler.compile(model, SQUARE, batch=3)


LONG = {"GRU", "LSTM", "Embedding", "MultiHeadAttention"}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_alone(name: str, run: Any) -> None:
    model, compiled = prepared(name)
    audit.histogram(compiled.program)
    assert train(model, compiled, run(compiled), 50 if name in LONG else 3) < 1e-4


def test_words_outside_the_table_take_its_ends(run: Any) -> None:
    model = random(K.Sequential([K.Input((1,)), layers.Embedding(7, 3)]))
    table = model.trainable_weights[0].numpy()
    # Keras 3 counts negative numbers from the end
    below = table[0] if tf.__version__ < "2.16" else table[-2]
    functions = run(compiler.compile(model, SQUARE, batch=2))
    wanted = {7.0: table[6], 1e9: table[6], 3e38: None, -1e9: table[0], -2.0: below, np.nan: None, 6.0: table[6]}
    for word, row in wanted.items():
        output = functions["infer"](x=np.array([[word]], np.float32))["output"][0, 0]
        assert (output == row).all() if row is not None else (output == table).all(1).any()
    batch = {"x": np.array([[np.inf], [-np.inf]], np.float32), "y": np.zeros((2, 1, 3)), "weight": np.ones(2)}
    audit.step(functions, {k: v.astype(np.float32) for k, v in batch.items()}, learning_rate=0.1)
    assert np.isfinite(functions["get"]()["weights"]).all()


def test_large_numbers_are_exact(run: Any) -> None:
    model = K.Sequential([K.Input((1,), dtype="int32"), layers.Embedding(70_000, 1), layers.Flatten(), layers.Dense(1)])
    functions = run(compiler.compile(model, SQUARE, batch=1))
    weights = np.append(np.arange(70_000), [1, 0]).astype(np.float32)
    functions["set"](weights=weights)
    for word in (65_537, 69_999):
        assert functions["infer"](x=np.array([[word]], np.float32))["output"] == word


def test_rows_that_are_looked_up_twice_get_both_gradients() -> None:
    index = tf.constant([[2, 0], [2, 9]])
    table = normal(1, 4, 3)
    mine = gradients(lambda t: rows(t, index), table)
    theirs = gradients(lambda t: tf.gather(t, tf.minimum(index, 3)), table)
    same(mine, [tf.convert_to_tensor(t) for t in theirs])


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("abc,cde->abde", (2, 3, 4), (4, 2, 3)),
        ("aecd,abcd->acbe", (2, 3, 4, 5), (2, 6, 4, 5)),
        ("BNTS,BSNH->BTNH", (2, 3, 4, 5), (2, 5, 3, 2)),
        ("abcd,cde->abe", (2, 3, 4, 5), (4, 5, 2)),
        ("a,b->ba", (2,), (3,)),
        ("abc,cd->dab", (2, 3, 4), (4, 5)),
        ("ab,ab->a", (2, 3), (2, 3)),
        ("ab,ab->", (2, 3), (2, 3)),
    ],
)
def test_einsum_and_its_gradients(equation: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(1, *a), normal(2, *b)
    same(gradients(lambda x, y: einsum(equation, x, y), x, y), gradients(lambda x, y: tf.einsum(equation, x, y), x, y))


def test_a_choice_sends_its_gradient_to_one_side() -> None:
    x, y, to = normal(1, 2, 3), normal(2, 3), tf.constant([[True], [False]])
    same(gradients(lambda x, y: choose(to, x, y), x, y), gradients(lambda x, y: tf.where(to, x, y), x, y))


def test_a_shared_weight_gets_the_gradient_of_all_its_steps() -> None:
    x, w, b = normal(1, 4, 3), normal(2, 3, 3), normal(3, 3)

    def steps(product: Any, add: Any) -> Any:
        y = x
        for _ in range(3):
            y = tf.tanh(add(product(y)))
        return y

    mine = gradients(lambda w, b: steps(matrix(w), bias(b)), w, b)
    same(mine, gradients(lambda w, b: steps(lambda y: y @ w, lambda y: y + b), w, b))
    narrow = normal(2, 3, 1)
    mine = gradients(lambda w: tf.add_n([matrix(w)(x), matrix(w)(2 * x)]), narrow)
    same(mine, gradients(lambda w: 3 * x @ w, narrow))


@pytest.mark.parametrize("name", ["GRU", "LSTM by steps", "GRU resets before", "Bidirectional"])
def test_rewrites_keep_the_result(name: str) -> None:
    model = random(MODELS[name]())
    before = trace(model, 3)
    after = simplify(before)
    x = normal(5, 3, *STEPS)
    weights = [tf.convert_to_tensor(variable(w)) for w in model.trainable_weights]
    for traced in (before, after):
        np.testing.assert_allclose(replay(traced, x, weights)[traced.output], model(x), rtol=1e-5, atol=1e-6)


def test_the_input_of_all_steps_is_one_product() -> None:
    before = trace(MODELS["GRU"](), 3)
    merged = once(before)
    after = hoist(merged)
    counts = [Counter(node.op for node in traced.nodes) for traced in (before, merged, after)]
    steps = STEPS[0]
    assert [c["MatMul"] for c in counts] == [2 * steps + 1, 2 * steps + 1, steps + 1]
    assert counts[2]["BatchMatMulV2"] == 1
    assert counts[2]["BiasAdd"] <= counts[1]["BiasAdd"] - steps + 1
    assert counts[0]["Split"] >= steps
    assert counts[2]["Split"] <= 2


def test_steps_may_be_split_along_an_axis_counted_from_the_front() -> None:
    def halves(x: Any) -> Any:
        steps = tf.unstack(tf.transpose(x, [1, 0, 2]))
        return tf.stack([tf.split(step, 2, axis=1)[1] for step in steps], axis=1)

    model = random(K.Sequential([K.Input(STEPS), layers.Dense(6), layers.Lambda(halves), layers.Dense(2)]))
    after = simplify(trace(model, 3))
    assert Counter(node.op for node in after.nodes)["Split"] == 1
    weights = [tf.convert_to_tensor(variable(w)) for w in model.trainable_weights]
    x = normal(5, 3, *STEPS)
    np.testing.assert_allclose(replay(after, x, weights)[after.output], model(x), rtol=1e-5, atol=1e-6)


def test_layers_are_left_as_they_were(run: Any) -> None:
    model = MODELS["Bidirectional"]()
    before = [dict(vars(layer)) for layer in everywhere(model)]
    with pytest.raises(ZeroDivisionError), unrolled(model):
        assert sum(bool(vars(layer).get("unroll")) for layer in everywhere(model)) >= 2
        _ = 1 / 0
    after = [dict(vars(layer)) for layer in everywhere(model)]
    assert [sorted(one) for one in before] == [sorted(one) for one in after]
    for one, two in zip(before, after):
        assert all(one[name] == two[name] for name in ("unroll", "_could_use_gpu_kernel") if name in one)
