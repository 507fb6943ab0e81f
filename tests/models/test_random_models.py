"""Random small models, layers and sizes as they come, three steps each against TensorFlow's gradients.

RANDOM_MODELS says how many; the same number gives the same models.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from parity import train

from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled

COUNT = int(os.environ.get("RANDOM_MODELS", "12"))
SQUARE, CROSS, BINARY = "mean_squared_error", "sparse_categorical_crossentropy", "binary_crossentropy"
K = tf.keras
Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
ACTIVATIONS = st.sampled_from(["linear", "relu", "tanh", "sigmoid", "elu", "gelu", "silu", "softplus", "relu6", "selu"])
PADDINGS = st.sampled_from(["same", "valid"])
UNITS, KERNELS, STRIDES = st.integers(1, 7), st.integers(1, 4), st.integers(1, 3)


class Layer(NamedTuple):
    """A Keras layer by name, as an example prints it."""

    name: str
    arguments: dict[str, Any]

    def build(self) -> Any:
        return getattr(K.layers, self.name)(**self.arguments)

    def after(self, shape: Shape) -> Shape:
        """The shape of what comes out, the batch left out."""
        state = random.getstate()  # from which Keras takes its initializers' seeds, and hypothesis forbids it
        try:
            return tuple(self.build().compute_output_shape((1, *shape)))[1:]
        finally:
            random.setstate(state)


class Random(NamedTuple):
    """A model's input, layers and loss; the weights follow from `seed`."""

    shape: Shape
    layers: tuple[Layer, ...]
    loss: str
    batch: int
    seed: int

    def build(self) -> Any:
        """The model, its biases too random: zeros would hide mistakes in where they are added."""
        end = {SQUARE: None, CROSS: "softmax", BINARY: "sigmoid"}[self.loss]
        last = [K.layers.Flatten(), K.layers.Dense(3, activation=end)]
        model = K.Sequential([K.Input(self.shape), *(layer.build() for layer in self.layers), *last])
        generator = np.random.default_rng(self.seed)
        for weight in model.weights:
            scale = 1.0 / np.sqrt(np.prod(weight.shape[:-1]) + 1)
            values = generator.normal(0, scale, tuple(weight.shape)).astype(np.float32)
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)
        return model


def pair(draw: Draw, numbers: st.SearchStrategy[int], rank: int) -> tuple[int, ...]:
    return tuple(draw(numbers) for _ in range(rank))


def convolution(draw: Draw, rank: int) -> dict[str, Any]:
    """Strides or dilation, as TensorFlow has it: not both."""
    strides, dilation = pair(draw, STRIDES, rank), (1,) * rank
    if draw(st.booleans()):
        strides, dilation = dilation, pair(draw, st.integers(1, 2), rank)
    return {
        "filters": draw(UNITS),
        "kernel_size": pair(draw, KERNELS, rank),
        "strides": strides,
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(["same", "valid", "causal"]) if rank == 1 else PADDINGS),
        "activation": draw(ACTIVATIONS),
        "use_bias": draw(st.booleans()),
    }


def transposed(draw: Draw, rank: int) -> dict[str, Any]:
    return {
        "filters": draw(UNITS),
        "kernel_size": pair(draw, KERNELS, rank),
        "strides": pair(draw, STRIDES, rank),
        "padding": draw(PADDINGS),
        "activation": draw(ACTIVATIONS),
    }


def depthwise(draw: Draw, rank: int) -> dict[str, Any]:
    """TensorFlow strides alike along all axes."""
    stride, dilation = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2)]))
    return {
        "kernel_size": pair(draw, KERNELS, rank),
        "strides": (stride,) * rank if rank > 1 else stride,
        "dilation_rate": (dilation,) * rank if rank > 1 else dilation,
        "padding": draw(PADDINGS),
        "depth_multiplier": draw(st.integers(1, 2)),
        "activation": draw(ACTIVATIONS),
    }


def separable(draw: Draw, rank: int) -> dict[str, Any]:
    return depthwise(draw, rank) | {"filters": draw(UNITS)}


def pooling(draw: Draw, rank: int) -> dict[str, Any]:
    windows, strides = pair(draw, KERNELS, rank), pair(draw, STRIDES, rank)
    return {"pool_size": windows, "strides": strides, "padding": draw(PADDINGS)}


def recurrent(draw: Draw, _: int) -> dict[str, Any]:
    return {
        "units": draw(st.integers(1, 4)),
        "return_sequences": draw(st.booleans()),
        "go_backwards": draw(st.booleans()),
        "activation": draw(st.sampled_from(["tanh", "sigmoid", "softsign"])),
    }


def edges(name: str) -> Callable[[Draw, int], dict[str, Any]]:
    """What is added or cut off at the two ends of each axis."""

    def draw_edges(draw: Draw, rank: int) -> dict[str, Any]:
        both = tuple(pair(draw, st.integers(0, 2), 2) for _ in range(rank))
        return {name: both[0] if rank == 1 else both}

    return draw_edges


def sized(draw: Draw, rank: int) -> dict[str, Any]:
    return {"size": draw(st.integers(1, 3)) if rank == 1 else pair(draw, st.integers(1, 3), rank)}


def nothing(draw: Draw, _: int) -> dict[str, Any]:
    return {}


EVERYWHERE: dict[str, Callable[[Draw, int], dict[str, Any]]] = {
    "Dense": lambda draw, _: {"units": draw(UNITS), "activation": draw(ACTIVATIONS), "use_bias": draw(st.booleans())},
    "BatchNormalization": lambda draw, _: {"scale": draw(st.booleans()), "center": draw(st.booleans())},
    "LayerNormalization": lambda draw, _: {"center": draw(st.booleans())},
    "Activation": lambda draw, _: {"activation": draw(ACTIVATIONS)},
    "Dropout": lambda draw, _: {"rate": draw(st.sampled_from([0.1, 0.5]))},
    "PReLU": nothing,
    "Flatten": nothing,
}
ALONG: dict[str, Callable[[Draw, int], dict[str, Any]]] = {
    "Conv": convolution,
    "DepthwiseConv": depthwise,
    "SeparableConv": separable,
    "MaxPooling": pooling,
    "AveragePooling": pooling,
    "GlobalAveragePooling": nothing,
    "GlobalMaxPooling": nothing,
    "ZeroPadding": edges("padding"),
    "Cropping": edges("cropping"),
    "UpSampling": sized,
    "SpatialDropout": lambda draw, _: {"rate": 0.3},
}
TABLE = {
    0: {**EVERYWHERE, "RepeatVector": lambda draw, _: {"n": draw(st.integers(1, 6))}},
    1: {
        **EVERYWHERE,
        **{f"{name}1D": make for name, make in ALONG.items()},
        "Conv1DTranspose": transposed,
        **dict.fromkeys(("SimpleRNN", "GRU", "LSTM"), recurrent),
    },
    2: {**EVERYWHERE, **{f"{name}2D": make for name, make in ALONG.items()}, "Conv2DTranspose": transposed},
}


def fits(shape: Shape) -> bool:
    """Whether something is left, and not so much that a test takes long."""
    return min(shape) >= 1 and int(np.prod(shape)) <= 1500


@st.composite
def layers(draw: Draw, shape: Shape) -> Layer:
    """A layer for inputs of `shape` that leaves something of them."""
    rank = len(shape) - 1
    name = draw(st.sampled_from(sorted(TABLE[rank])))
    layer = Layer(name, TABLE[rank][name](draw, rank))
    cut = layer.arguments.get("padding") == "valid" and "Transpose" not in name
    reach = layer.arguments.get("kernel_size", layer.arguments.get("pool_size", (1,) * rank))
    spread = layer.arguments.get("dilation_rate", 1)
    spread = spread if isinstance(spread, tuple) else (spread,) * rank
    short = cut and any(n <= (k - 1) * d for n, k, d in zip(shape, reach, spread))
    cropped = name.startswith("Cropping") and min(shape[:-1]) < 5
    long = "units" in layer.arguments and "return_sequences" in layer.arguments and shape[0] > 5  # slow to compile
    return Layer("LayerNormalization", {}) if short or cropped or long or not fits(layer.after(shape)) else layer


@st.composite
def models(draw: Draw) -> Random:
    """Two to four layers."""
    rank = draw(st.integers(0, 2))
    shape = before = (*pair(draw, st.integers(3, 9), rank), draw(st.integers(1, 6)))
    stack: list[Layer] = []
    for _ in range(draw(st.integers(2, 4))):
        stack.append(draw(layers(shape)))
        shape = stack[-1].after(shape)
    loss = draw(st.sampled_from([SQUARE, CROSS, BINARY]))
    return Random(before, tuple(stack), loss, draw(st.integers(1, 5)), draw(st.integers(0, 1000)))


def distance(example: Random, run: Callable[[Compiled], dict[str, Any]]) -> float:
    """How far three steps of the program are from TensorFlow's, relative to how far the weights moved."""
    model = example.build()
    compiled = compiler.compile(model, example.loss, batch=example.batch)
    audit.histogram(compiled.program)
    return train(model, compiled, run(compiled), 3)


@settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(example=models())
def test_a_random_model(example: Random, run: Any) -> None:
    assert distance(example, run) < 1e-4
