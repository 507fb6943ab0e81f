"""Every layer and activation alone, and pairs of them, a few steps on the LiteRT runtime against TensorFlow's gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import train

from fedfleet.models import audit, compiler

K = tf.keras
layers = K.layers
SQUARE = "mean_squared_error"
KERAS3 = tf.__version__ >= "2.16"
VECTOR, ROW, IMAGE = (7,), (9, 4), (6, 7, 2)
Stack = Callable[[], list[Any]]

ACTIVATIONS = [
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "hard_sigmoid", "softplus",
    "exponential", "softsign", "mish", "log_softmax",
    *(["hard_swish", "celu", "tanh_shrink"] if KERAS3 else []),
]  # fmt: skip


def tanh_gelu(x: Any) -> Any:
    return K.activations.gelu(x, approximate=True)


def merging(layer: Any) -> Any:
    """A model of two branches that `layer` joins."""
    inside = K.Input((6,))
    left, right = layers.Dense(4, activation="tanh")(inside), layers.Dense(4)(inside)
    return K.Model(inside, layers.Dense(2)(layer([left, right])))


STACKS: dict[str, tuple[tuple[int, ...], Stack]] = {
    **{name: (VECTOR, lambda name=name: [layers.Dense(9, activation=name)]) for name in ACTIVATIONS},
    "gelu by tanh": (VECTOR, lambda: [layers.Dense(9, activation=tanh_gelu)]),
    "LeakyReLU": (VECTOR, lambda: [layers.Dense(9), layers.LeakyReLU()]),
    "PReLU": ((4, 5), lambda: [layers.Dense(6), layers.PReLU(shared_axes=[1])]),
    "ELU": (VECTOR, lambda: [layers.Dense(9), layers.ELU()]),
    "ReLU up to 1": (VECTOR, lambda: [layers.Dense(9), layers.ReLU(max_value=1.0)]),
    "ReLU above 0.1": (VECTOR, lambda: [layers.Dense(9), layers.ReLU(threshold=0.1)]),
    "Softmax": ((4, 5), lambda: [layers.Dense(6), layers.Softmax()]),
    "Permute": (IMAGE, lambda: [layers.Dense(3), layers.Permute((2, 3, 1)), layers.Dense(2)]),
    "RepeatVector": (VECTOR, lambda: [layers.Dense(3), layers.RepeatVector(4), layers.Dense(2)]),
    "ZeroPadding1D": (ROW, lambda: [layers.Dense(3), layers.ZeroPadding1D((1, 2)), layers.Conv1D(2, 3)]),
    "ZeroPadding2D": (IMAGE, lambda: [layers.Dense(3), layers.ZeroPadding2D(((1, 0), (2, 1))), layers.Conv2D(2, 3)]),
    "Cropping1D": (ROW, lambda: [layers.Dense(3), layers.Cropping1D((1, 2))]),
    "Cropping2D": (IMAGE, lambda: [layers.Dense(3), layers.Cropping2D(((1, 0), (2, 1)))]),
    "UpSampling1D": (ROW, lambda: [layers.Dense(3), layers.UpSampling1D(3), layers.Conv1D(2, 3)]),
    "UpSampling2D": (IMAGE, lambda: [layers.Dense(3), layers.UpSampling2D((2, 3)), layers.Conv2D(2, 3)]),
    "GlobalAveragePooling1D": (ROW, lambda: [layers.Dense(3), layers.GlobalAveragePooling1D()]),
    "GlobalAveragePooling2D": (IMAGE, lambda: [layers.Dense(3), layers.GlobalAveragePooling2D(keepdims=True)]),
    "GlobalMaxPooling1D": (ROW, lambda: [layers.Dense(3), layers.GlobalMaxPooling1D()]),
    "GlobalMaxPooling2D": (IMAGE, lambda: [layers.Dense(3), layers.GlobalMaxPooling2D()]),
    "AveragePooling1D": (ROW, lambda: [layers.Dense(3), layers.AveragePooling1D(2)]),
    "AveragePooling2D": (IMAGE, lambda: [layers.Dense(3), layers.AveragePooling2D((2, 3))]),
    "AveragePooling2D overlapping": (IMAGE, lambda: [layers.Dense(3), layers.AveragePooling2D(3, 2)]),
    "AveragePooling2D same": (IMAGE, lambda: [layers.Dense(3), layers.AveragePooling2D(3, (1, 2), "same")]),
    "MaxPooling1D": (ROW, lambda: [layers.Dense(3), layers.MaxPooling1D(3, 2)]),
    "DepthwiseConv2D": (IMAGE, lambda: [layers.Dense(3), layers.DepthwiseConv2D(3, depth_multiplier=2)]),
    "DepthwiseConv2D strides": (IMAGE, lambda: [layers.Dense(3), layers.DepthwiseConv2D(3, 2, "same")]),
    "DepthwiseConv2D dilated": (IMAGE, lambda: [layers.Dense(3), layers.DepthwiseConv2D(2, dilation_rate=(2, 3))]),
    "DepthwiseConv1D": (ROW, lambda: [layers.Dense(3), layers.DepthwiseConv1D(3)]),
    "SeparableConv2D": (IMAGE, lambda: [layers.Dense(3), layers.SeparableConv2D(4, 3, padding="same")]),
    "SeparableConv1D": (ROW, lambda: [layers.Dense(3), layers.SeparableConv1D(4, 3, dilation_rate=2)]),
    "Conv2DTranspose": (IMAGE, lambda: [layers.Dense(3), layers.Conv2DTranspose(4, 3, 2, "same")]),
    "Conv2DTranspose valid": (IMAGE, lambda: [layers.Dense(3), layers.Conv2DTranspose(4, (2, 3), (3, 1))]),
    "Conv1DTranspose": (ROW, lambda: [layers.Dense(3), layers.Conv1DTranspose(4, 3, 2)]),
    "Conv2D dilated": (IMAGE, lambda: [layers.Dense(3), layers.Conv2D(4, 2, dilation_rate=(2, 3))]),
    "Conv2D dilated same": (IMAGE, lambda: [layers.Dense(3), layers.Conv2D(4, 3, padding="same", dilation_rate=2)]),
    "Conv1D causal": (ROW, lambda: [layers.Dense(3), layers.Conv1D(4, 2, padding="causal", dilation_rate=2)]),
    "Conv2D groups": (IMAGE, lambda: [layers.Dense(4), layers.Conv2D(6, 3, groups=2)]),
    "BatchNormalization": (IMAGE, lambda: [layers.Dense(3), layers.BatchNormalization()]),
    "BatchNormalization of rows": (VECTOR, lambda: [layers.Dense(6), layers.BatchNormalization(), layers.ReLU()]),
    "LayerNormalization": (ROW, lambda: [layers.Dense(6), layers.LayerNormalization()]),
    "LayerNormalization of images": (IMAGE, lambda: [layers.Dense(3), layers.LayerNormalization(axis=[1, 2, 3])]),
    "GroupNormalization": (IMAGE, lambda: [layers.Dense(6), layers.GroupNormalization(3)]),
    "UnitNormalization": (VECTOR, lambda: [layers.Dense(6), layers.UnitNormalization()]),
    "slice and step": (ROW, lambda: [layers.Dense(3), layers.Lambda(lambda x: x[:, -4:, 1])]),
}
MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]


def drift(model: Any, run: Any, loss: str = SQUARE) -> float:
    """The distance after three steps, from random weights; the program holds builtins alone."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        scale = 1.0 / np.sqrt(np.prod(weight.shape[:-1]) + 1)
        values = random.normal(0, scale, tuple(weight.shape)).astype(np.float32)
        weight.assign(np.abs(values) + 0.1 if "variance" in weight.name else values)
    compiled = compiler.compile(model, loss, batch=3)
    audit.histogram(compiled.program)
    return train(model, compiled, run(compiled), 3)


@pytest.mark.parametrize("name", STACKS)
def test_a_layer_alone(name: str, stack: Any, run: Any) -> None:
    shape, build = STACKS[name]
    assert drift(stack(shape, *build(), layers.Flatten(), layers.Dense(2)), run) < 1e-4


@pytest.mark.parametrize("name", MERGES)
def test_a_merge(name: str, run: Any) -> None:
    assert drift(merging(getattr(layers, name)()), run) < 1e-4


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        ("categorical_crossentropy", None),
        ("categorical_crossentropy", "softmax"),
        ("binary_crossentropy", None),
        ("binary_crossentropy", "sigmoid"),
        ("mean_absolute_error", None),
        ("huber", None),
    ],
)
def test_a_loss(loss: str, activation: str | None, stack: Any, run: Any) -> None:
    assert drift(stack((5,), layers.Dense(6, "tanh"), layers.Dense(3, activation)), run, loss) < 1e-4


def test_probabilities_and_logits_have_the_same_losses(stack: Any, run: Any) -> None:
    shown = []
    for activation in (None, "sigmoid"):
        compiled = compiler.compile(stack((5,), layers.Dense(2, activation)), "binary_crossentropy", batch=3)
        shown.append(run(compiled)["evaluate"](**audit.examples(compiled)))
    assert {name: value.tolist() for name, value in shown[0].items()} == {k: v.tolist() for k, v in shown[1].items()}
    assert shown[0]["count"].tolist() == [2]


PAIRED = [name for name, (shape, _) in STACKS.items() if shape == IMAGE]
PAIRS = [tuple(map(str, pair)) for pair in np.random.default_rng(5).choice(PAIRED, (10, 2))]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_pair_of_image_layers(first: str, second: str, stack: Any) -> None:
    one, two = STACKS[first][1]()[1:], STACKS[second][1]()[1:]
    shape = stack((12, 13, 2), layers.Dense(6), *one).output_shape[1:]
    between = [] if len(shape) == 3 else [layers.Flatten(), layers.Dense(150), layers.Reshape((5, 5, 6))]
    model = stack((12, 13, 2), layers.Dense(6), *one, *between, layers.Dense(6, "elu"), *two)
    model.add(layers.Flatten())
    model.add(layers.Dense(2))
    # gradients of some pairs are so large that three steps would magnify the last bit
    assert audit.audit(model, compiler.compile(model, SQUARE, batch=3)).difference < 1e-4
