"""Convolutions of other kinds, run eagerly: any size, stride and padding, against TensorFlow's values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import gradients, normal, same

from fedfleet.models.conv import axis, footprint, transposed
from fedfleet.models.depthwise import depthwise
from fedfleet.models.ops import LOWER
from fedfleet.models.trace import Node
from fedfleet.models.windows import pieces
from fedfleet.wire.errors import ModelError

SIZES, KERNELS, STRIDES = st.integers(5, 9), st.integers(1, 3), st.integers(1, 3)


def window(op: str, *inputs: Any, padding: bytes = b"SAME", stride: int = 1, layout: bytes = b"NHWC") -> Any:
    attrs = {"padding": padding, "strides": [1, stride, stride, 1], "dilations": [1] * 4, "data_format": layout}
    return LOWER[op](Node("node", op, (), (), attrs), *inputs)


@settings(max_examples=40, deadline=None)
@given(high=SIZES, wide=SIZES, k=st.tuples(KERNELS, KERNELS), stride=STRIDES, padded=st.booleans())
def test_depthwise_is_tensorflows(high: int, wide: int, k: tuple[int, int], stride: int, padded: bool) -> None:
    x, kernel = normal(1, 2, high, wide, 3), normal(2, *k, 3)
    rows, cols = axis(high, k[0], stride, 1, padded), axis(wide, k[1], stride, 1, padded)
    steps, padding = [1, stride, stride, 1], "SAME" if padded else "VALID"
    mine = gradients(lambda x, w: depthwise(x, w, rows, cols), x, kernel)
    theirs = gradients(lambda x, w: tf.nn.depthwise_conv2d(x, w[..., None], steps, padding), x, kernel)
    same(mine, theirs, 1e-4)


@settings(max_examples=40, deadline=None)
@given(
    high=SIZES,
    wide=SIZES,
    k=st.tuples(KERNELS, KERNELS),
    s=st.tuples(STRIDES, STRIDES),
    padded=st.booleans(),
    features=st.sampled_from([2, 20]),
)
def test_a_transposed_convolution_is_tensorflows(
    high: int, wide: int, k: tuple[int, int], s: tuple[int, int], padded: bool, features: int
) -> None:
    rows, cols = axis(high, k[0], s[0], 1, padded), axis(wide, k[1], s[1], 1, padded)
    x, kernel = normal(1, 2, rows.out, cols.out, features), normal(2, *k, 3, features)
    shape, padding = [2, high, wide, 3], "SAME" if padded else "VALID"
    mine = gradients(lambda x, w: transposed(x, w, rows, cols), x, kernel)
    same(mine, gradients(lambda x, w: tf.nn.conv2d_transpose(x, w, shape, s, padding), x, kernel), 1e-4)


def test_a_large_batch_goes_through_in_pieces_with_the_same_result() -> None:
    x, kernel = normal(1, 6, 32, 40, 8), normal(2, 3, 3, 8, 24)
    rows, cols = axis(32, 3, 1, 1, True), axis(40, 3, 1, 1, True)
    assert pieces(6, footprint(x, kernel, rows, cols)) == 2
    mine = gradients(lambda x, w: window("Conv2D", x, w), x, kernel)
    same(mine, gradients(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), x, kernel), 2e-3)


@pytest.mark.parametrize(("batch", "size", "count"), [(1, 10**9, 1), (7, 10**6, 7), (16, 10**5, 2), (16, 10, 1)])
def test_pieces_are_equal_and_small(batch: int, size: int, count: int) -> None:
    assert pieces(batch, size) == count


@pytest.mark.parametrize("padding", [b"SAME", b"VALID"])
def test_a_depth_multiplier(padding: bytes) -> None:
    x, kernel = normal(1, 2, 6, 7, 3), normal(2, 3, 2, 3, 4)
    mine = gradients(lambda x, w: window("DepthwiseConv2dNative", x, w, padding=padding), x, kernel)
    same(mine, gradients(lambda x, w: tf.nn.depthwise_conv2d(x, w, [1] * 4, padding.decode()), x, kernel), 1e-4)


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_see_only_their_channels(groups: int) -> None:
    x, kernel = normal(1, 2, 6, 7, 6), normal(2, 3, 3, 6 // groups, 2 * groups)
    mine = gradients(lambda x, w: window("Conv2D", x, w, stride=2), x, kernel)

    def each(x: Any, w: Any) -> Any:
        pairs = zip(tf.split(x, groups, 3), tf.split(w, groups, 3))
        return tf.concat([tf.nn.conv2d(part, own, 2, "SAME") for part, own in pairs], 3)

    same(mine, gradients(each, x, kernel), 1e-4)


@pytest.mark.parametrize(
    ("op", "shape"), [("Conv2D", (3, 3, 2, 2)), ("DepthwiseConv2dNative", (3, 3, 2, 1)), ("Conv2D", (3, 3, 1, 2))]
)
@pytest.mark.parametrize("wrong", [{"layout": b"NCHW"}, {"padding": b"EXPLICIT"}])
def test_another_layout_or_padding_is_refused(op: str, shape: tuple[int, ...], wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="only channels_last with padding 'same' or 'valid'"):
        window(op, normal(1, 1, 5, 5, 2), normal(2, *shape), **wrong)


def test_the_output_size_of_a_transposed_convolution_counts() -> None:
    x, kernel, size = normal(1, 1, 3, 3, 2), normal(2, 2, 2, 3, 2), np.array([1, 6, 5, 3])
    mine = window("Conv2DBackpropInput", size, kernel, x, stride=2)
    assert mine.shape == (1, 6, 5, 3)
    same([mine], [tf.nn.conv2d_transpose(x, kernel, size, 2, "SAME")], 1e-4)


def test_a_depthwise_convolution_of_two_strides_is_refused() -> None:
    attrs = {"padding": b"SAME", "strides": [1, 2, 1, 1], "dilations": [1] * 4, "data_format": b"NHWC"}
    node = Node("node", "DepthwiseConv2dNative", (), (), attrs)
    with pytest.raises(ModelError, match="has one stride and no dilation of its own"):
        LOWER[node.op](node, normal(1, 1, 5, 5, 2), normal(2, 3, 3, 2, 1))
