"""Lowerings run eagerly against the TensorFlow ops that they stand for: values and gradients, kinks and ties included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from parity import gradients, normal, same

from fedfleet.models.conv import axis
from fedfleet.models.ops import LOWER
from fedfleet.models.pool import mean_pool
from fedfleet.models.shapes import cut, join, pad, repeat, tile
from fedfleet.models.trace import Node
from fedfleet.wire.errors import ModelError

KINKS = [-7.0, -3.0, -1.5, -1.0, -0.25, -1e-3, 0.0, 1e-3, 0.25, 1.0, 1.5, 3.0, 6.0, 7.0]
UNARY: dict[str, Callable[[Any], Any]] = {
    "Abs": tf.abs,
    "Elu": tf.nn.elu,
    "Erf": tf.math.erf,
    "Erfc": tf.math.erfc,
    "Exp": tf.exp,
    "Expm1": tf.math.expm1,
    "LogSoftmax": tf.nn.log_softmax,
    "Neg": tf.negative,
    "Relu": tf.nn.relu,
    "Relu6": tf.nn.relu6,
    "Relu6OfProduct": tf.nn.relu6,
    "ReluOfProduct": tf.nn.relu,
    "Selu": tf.nn.selu,
    "Sigmoid": tf.sigmoid,
    "Softmax": tf.nn.softmax,
    "Softplus": tf.math.softplus,
    "Softsign": tf.math.softsign,
    "Square": tf.square,
    "StopGradient": tf.stop_gradient,
    "Tanh": tf.tanh,
}
ABOVE_ZERO: dict[str, Callable[[Any], Any]] = {"Log": tf.math.log, "Rsqrt": tf.math.rsqrt, "Sqrt": tf.sqrt}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": tf.add,
    "AddV2": tf.add,
    "Maximum": tf.maximum,
    "Minimum": tf.minimum,
    "Mul": tf.multiply,
    "RealDiv": tf.divide,
    "SquaredDifference": tf.math.squared_difference,
    "Sub": tf.subtract,
}
REDUCED: dict[str, Callable[..., Any]] = {"Max": tf.reduce_max, "Mean": tf.reduce_mean, "Sum": tf.reduce_sum}


def lower(op: str, *inputs: Any, **attrs: Any) -> Any:
    return LOWER[op](Node("node", op, (), (), attrs), *inputs)


@pytest.mark.parametrize("op", UNARY)
def test_an_activation_and_its_slope(op: str) -> None:
    x = tf.constant([KINKS], tf.float32)
    same(gradients(lambda x: lower(op, x), x), gradients(UNARY[op], x))


@pytest.mark.parametrize("op", ABOVE_ZERO)
def test_a_function_of_positive_numbers(op: str) -> None:
    x = tf.constant([0.1, 0.5, 1, 2, 50], tf.float32)
    same(gradients(lambda x: lower(op, x), x), gradients(ABOVE_ZERO[op], x))


@pytest.mark.parametrize("op", ["Softplus", "Sigmoid", "Tanh", "Elu", "Selu", "Softsign", "Erf"])
def test_large_inputs_stay_finite(op: str) -> None:
    x = tf.constant([-1e4, -90, 90, 1e4], tf.float32)
    same(gradients(lambda x: lower(op, x), x), gradients(UNARY[op], x))


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_leaky_relu(alpha: float) -> None:
    x = tf.constant(KINKS, tf.float32)
    same(gradients(lambda x: lower("LeakyRelu", x, alpha=alpha), x), gradients(lambda x: tf.nn.leaky_relu(x, alpha), x))


@pytest.mark.parametrize("exponent", [2, 3, 4])
def test_powers_are_products(exponent: int) -> None:
    x, number = tf.constant(KINKS, tf.float32), np.array(exponent, np.float32)
    same(gradients(lambda x: lower("Pow", x, number), x), gradients(lambda x: tf.pow(x, number), x))


def test_a_division_that_makes_zero_of_x_by_zero() -> None:
    x = tf.constant(KINKS, tf.float32)
    same([lower("DivNoNan", x, np.float32([4.0]))], [x / 4.0])
    for unknown in (np.float32([0.0]), x):
        with pytest.raises(ModelError, match="makes 0 of x / 0"):
            lower("DivNoNan", x, unknown)


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((3, 1), (2, 1, 4)), ((2, 3), ())])
def test_an_operation_of_two_broadcasts(op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    random = np.random.default_rng(3)
    # few distinct values, so that many pairs are equal; none is zero, for the division
    a, b = (tf.constant(random.choice([-2.0, -1.0, 1.0, 2.0], shape), tf.float32) for shape in shapes)
    same(gradients(lambda a, b: lower(op, a, b), a, b), gradients(BINARY[op], a, b))


@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(sorted(REDUCED)),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    chosen=st.sets(st.integers(0, 4), min_size=1),
    keep=st.booleans(),
)
def test_a_reduction_over_any_axes(op: str, shape: list[int], chosen: set[int], keep: bool) -> None:
    axes = sorted(axis for axis in chosen if axis < len(shape))
    assume(axes)
    # distinct values: equal maxima of several runs share their gradient run by run
    x = tf.constant(np.random.default_rng(1).permutation(int(np.prod(shape))).reshape(shape), tf.float32)
    negative = np.array([axis - len(shape) for axis in axes])
    mine = gradients(lambda x: lower(op, x, negative, keep_dims=keep), x)
    same(mine, gradients(lambda x: REDUCED[op](x, axes, keepdims=keep), x))


def test_equal_maxima_share_the_gradient() -> None:
    x = tf.constant([[[1.0], [3.0], [3.0]], [[2.0], [2.0], [2.0]]])
    mine = gradients(lambda x: lower("Max", x, np.array([1]), keep_dims=False), x)
    same(mine, gradients(lambda x: tf.reduce_max(x, 1), x))


@settings(max_examples=60, deadline=None)
@given(
    high=st.integers(4, 9),
    wide=st.integers(4, 9),
    k=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    s=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padded=st.booleans(),
)
def test_mean_pool_is_tensorflows(high: int, wide: int, k: tuple[int, int], s: tuple[int, int], padded: bool) -> None:
    x = normal(1, 2, high, wide, 3)
    rows, cols = axis(high, k[0], s[0], 1, padded), axis(wide, k[1], s[1], 1, padded)
    mine = gradients(lambda x: mean_pool(x, rows, cols), x)
    same(mine, gradients(lambda x: tf.nn.avg_pool2d(x, k, s, "SAME" if padded else "VALID"), x))


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), where=st.integers(0, 3), times=st.integers(1, 3))
def test_repeating_and_tiling(shape: list[int], where: int, times: int) -> None:
    where %= len(shape)
    x, multiples = normal(1, *shape), [times if i == where else 1 for i in range(len(shape))]
    same(gradients(lambda x: repeat(x, where, times), x), gradients(lambda x: tf.repeat(x, times, where), x))
    same(gradients(lambda x: tile(x, where, times), x), gradients(lambda x: tf.tile(x, multiples), x))


def test_joining_cutting_and_padding() -> None:
    x, y = normal(1, 2, 3, 4), normal(2, 2, 5, 4)
    same(gradients(lambda x, y: join([x, y], 1), x, y), gradients(lambda x, y: tf.concat([x, y], 1), x, y))
    same(gradients(lambda x: cut(x, [0, 1, 2], [2, 2, 1]), x), gradients(lambda x: x[:, 1:3, 2:3], x))
    margins = [(0, 0), (1, 2), (0, 3)]
    same(gradients(lambda x: pad(x, margins), x), gradients(lambda x: tf.pad(x, margins), x))
    assert pad(x, [(0, 0)] * 3) is x


SLICES: dict[str, Callable[[Any], Any]] = {
    "ends": lambda x: x[1:, :-2],
    "from the back": lambda x: x[:, -3:],
    "a number": lambda x: x[:, 2],
    "the last": lambda x: x[:, :, -1],
    "everything": lambda x: x[:],
}


@pytest.mark.parametrize("name", SLICES)
def test_a_slice(name: str) -> None:
    graph = tf.function(SLICES[name]).get_concrete_function(tf.TensorSpec([3, 5, 4])).graph
    op = next(op for op in graph.get_operations() if op.type == "StridedSlice")
    constants = [tf.make_ndarray(t.op.get_attr("value")) for t in op.inputs[1:]]
    attrs = {key: op.get_attr(key) for key in op.node_def.attr}
    x = normal(1, 3, 5, 4)
    same(gradients(lambda x: lower("StridedSlice", x, *constants, **attrs), x), gradients(SLICES[name], x))


def test_upsampling_by_half_is_refused() -> None:
    with pytest.raises(ModelError, match="whole multiple"):
        lower("ResizeNearestNeighbor", normal(1, 1, 4, 4, 1), np.array([4, 6]), align_corners=False)
