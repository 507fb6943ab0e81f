"""Models that cannot become a program: one line each, naming what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from fedfleet.models import compiler, layout
from fedfleet.wire.errors import ModelError

K = tf.keras
layers = K.layers
CROSS, SQUARE = "sparse_categorical_crossentropy", "mean_squared_error"


def sequential(*stack: Any) -> Any:
    return K.Sequential(list(stack))


def two_inputs() -> Any:
    a, b = K.Input((2,)), K.Input((2,))
    return K.Model([a, b], layers.Dense(2)(layers.Add()([a, b])))


def two_outputs() -> Any:
    a = K.Input((2,))
    return K.Model(a, [layers.Dense(2)(a), layers.Dense(2)(a)])


def frozen() -> Any:
    model = sequential(K.Input((2,)), layers.Dense(2))
    model.trainable = False
    return model


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "unknown loss": (lambda: sequential(K.Input((2,)), layers.Dense(2)), "hinge", "unknown loss 'hinge'; use sparse_"),
    "matrix for classes": (
        lambda: sequential(K.Input((3, 2)), layers.Dense(2)), CROSS, "one output per class, at least 2, but .* [3, 2]"),
    "one class": (lambda: sequential(K.Input((2,)), layers.Dense(1)), CROSS, "at least 2, but .* is [1]"),
    "nothing to train": (frozen, CROSS, "has nothing to train; set trainable=True"),
    "no weights": (lambda: sequential(K.Input((2, 2)), layers.Flatten()), SQUARE, "has nothing to train"),
    "free size": (
        lambda: sequential(K.Input((None, 3)), layers.Conv1D(2, 1)), SQUARE, "of unknown size; give every size"),
    "two inputs": (two_inputs, CROSS, "has 2 inputs; a device program takes exactly one"),
    "two outputs": (two_outputs, CROSS, "has 2 outputs; a device program takes exactly one"),
    "no shape": (lambda: sequential(layers.Dense(2)), CROSS, "put keras.Input(shape) in front"),
    "not a model": (lambda: "model", CROSS, "str is not a Keras model"),
    "long integers": (
        lambda: sequential(K.Input((2,), dtype="int64"), layers.Embedding(5, 2), layers.Flatten()),
        SQUARE,
        "input of int64; a device program takes float32 or int32 only",
    ),
    "a long sequence": (
        lambda: sequential(K.Input((513, 2)), layers.GRU(2, name="slow"), layers.Dense(2)),
        SQUARE,
        "layer 'slow': op  .* has no training program for the device; SimpleRNN, GRU, LSTM and RNN are written out up to",
    ),
    "a state between batches": (
        lambda: sequential(K.Input((3, 2), 4), layers.GRU(2, stateful=True, name="kept"), layers.Dense(2)),
        SQUARE,
        "layer 'kept': a state kept between batches has no training program; drop stateful",
    ),
    "dropout between steps": (
        lambda: sequential(K.Input((3, 2)), layers.LSTM(2, dropout=0.1, name="noisy"), layers.Dense(2)),
        SQUARE,
        "layer 'noisy': dropout inside a recurrent layer has no training program; use Dropout",
    ),
    "a mask at the end": (
        lambda: sequential(K.Input((3,)), layers.Embedding(5, 2, mask_zero=True), layers.Dense(2)),
        SQUARE,
        "a mask reaches the output, and losses do not look at masks; end with a layer that drops it",
    ),
    "columns by number": (
        lambda: sequential(
            K.Input((3,)), layers.Dense(2), layers.Lambda(lambda x: tf.gather(x, [1, 0], axis=1), name="swap")
        ),
        SQUARE,
        "layer 'swap': only a table's rows can be looked up, as Embedding does; use Embedding",
    ),
    "a diagonal": (
        lambda: sequential(
            K.Input((3, 3)),
            layers.Dense(3),
            layers.Lambda(lambda x: tf.raw_ops.Einsum(inputs=[x, x], equation="bii,bij->bj"), name="odd"),
        ),
        SQUARE,
        "layer 'odd': einsum 'bii,bij->bj' has no training program; use products of distinct axes",
    ),
    "another kind of noise": (
        lambda: sequential(K.Input((3,)), layers.Dense(2), layers.GaussianNoise(0.1, name="hiss")),
        SQUARE,
        "layer 'hiss': GaussianNoise has no training program for the device; use Dropout",
    ),
    "noise of a product": (
        lambda: sequential(K.Input((3,)), layers.Dense(2), layers.GaussianDropout(0.1, name="hiss")),
        SQUARE,
        "layer 'hiss': GaussianDropout has no training program for the device; use Dropout",
    ),
    "half precision": (
        lambda: sequential(
            K.Input((3,)), layers.Dense(2), layers.Lambda(lambda x: tf.cast(tf.cast(x, "float16"), "float32"), name="h")
        ),
        SQUARE,
        "layer 'h': float32 to float16 has no training program; keep to float32 and int32",
    ),
    "unknown op": (
        lambda: sequential(K.Input((2,)), layers.Dense(3, activation=tf.math.sin, name="odd"), layers.Dense(2)),
        CROSS,
        "layer 'odd': op Sin has no training program for the device; docs/compiler.md lists",
    ),
    "odd power": (
        lambda: sequential(K.Input((2,)), layers.Dense(3, activation=lambda x: x**1.5, name="odd"), layers.Dense(2)),
        CROSS,
        "layer 'odd': only powers of 2 to 4 have a training program",
    ),
    "slice with steps": (
        lambda: sequential(K.Input((6,)), layers.Dense(4), layers.Lambda(lambda x: x[:, ::2], name="half")),
        SQUARE,
        "layer 'half': only slices such as x[:, 2:5] have a training program for the device",
    ),
    "resize": (
        lambda: sequential(
            K.Input((4, 4, 1)),
            layers.Dense(2),
            layers.Lambda(lambda x: tf.raw_ops.ResizeNearestNeighbor(images=x, size=[6, 6]), name="grown"),
        ),
        SQUARE,
        "layer 'grown': only resizing to a whole multiple has a training program; use UpSampling2D",
    ),
    "statistics of the batch": (
        lambda: sequential(
            K.Input((4, 4, 2)),
            layers.Dense(2),
            layers.Lambda(
                lambda x: tf.raw_ops.FusedBatchNormV3(
                    x=x, scale=[1.0] * 2, offset=[0.0] * 2, mean=[], variance=[], is_training=True
                )[0],
                name="norm",
            ),
        ),
        SQUARE,
        "layer 'norm': statistics of the batch have no training program; use BatchNormalization with training=False",
    ),
    "bilinear": (
        lambda: sequential(
            K.Input((4, 4, 2)), layers.Dense(2), layers.UpSampling2D(2, interpolation="bilinear", name="grown")
        ),
        SQUARE,
        "layer 'grown': op ResizeBilinear has no training program for the device; use UpSampling2D with interpolation=",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_in_one_line(name: str) -> None:
    build, loss, says = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        compiler.compile(build(), loss)
    text = str(caught.value)
    assert all(part in text for part in says.split(" .* ")), text
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize("batch", [0, -1, 5000])
def test_a_batch_out_of_range(batch: int) -> None:
    with pytest.raises(ModelError, match="is out of range"):
        compiler.compile(sequential(K.Input((2,)), layers.Dense(2)), CROSS, batch=batch)


def test_too_many_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_PARAMETERS", 5)
    with pytest.raises(ModelError, match="has 6 parameters, more than 5"):
        compiler.compile(sequential(K.Input((2,)), layers.Dense(2)), CROSS)


def test_assign_checks_before_it_writes() -> None:
    model = sequential(K.Input((2,)), layers.Dense(2))
    compiled = compiler.compile(model, CROSS, batch=1)
    before = compiler.flatten(model)
    with pytest.raises(ModelError, match="do not fit a layout of 6"):
        compiler.assign(model, compiled.layout, np.ones(7, np.float32))
    with pytest.raises(ModelError, match="the layout is not the model's"):
        compiler.assign(model, compiled.layout[:1], np.ones(4, np.float32))
    np.testing.assert_array_equal(compiler.flatten(model), before)
