"""The lowered operations, run eagerly, against TensorFlow's: values and gradients, ties included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedfleet.models.conv import Axis, axis, conv2d, dilate, product
from fedfleet.models.losses import LOSSES
from fedfleet.models.pool import max_pool

SIZES = st.integers(5, 9)
KERNELS = st.integers(1, 3)
STRIDES = st.integers(1, 3)
# not 1: there TensorFlow 2.21 with oneDNN computes some strided convolutions and products wrongly on the host
CHANNELS = [2, 3, 20]


def normal(seed: int, *shape: int) -> Any:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


def gradients(function: Any, *tensors: Any) -> tuple[Any, list[Any]]:
    """The value and the gradients by all tensors of a weighted sum of it."""
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
        total = tf.reduce_sum(value * normal(9, *value.shape))
    return value, tape.gradient(total, tensors)


@settings(max_examples=60, deadline=None)
@given(
    high=SIZES,
    wide=SIZES,
    k=st.tuples(KERNELS, KERNELS),
    s=st.tuples(STRIDES, STRIDES),
    same=st.booleans(),
    depth=st.sampled_from(CHANNELS),
    features=st.sampled_from(CHANNELS),
)
@example(high=3, wide=2, k=(9, 7), s=(1, 1), same=True, depth=CHANNELS[-1], features=CHANNELS[-1])
def test_convolution_is_tensorflows(
    high: int, wide: int, k: tuple[int, int], s: tuple[int, int], same: bool, depth: int, features: int
) -> None:
    x, kernel = normal(1, 2, high, wide, depth), normal(2, *k, depth, features)
    rows, cols = axis(high, k[0], s[0], 1, same), axis(wide, k[1], s[1], 1, same)
    mine = gradients(lambda x, w: conv2d(x, w, rows, cols), x, kernel)
    theirs = gradients(lambda x, w: tf.nn.conv2d(x, w, s, "SAME" if same else "VALID"), x, kernel)
    for a, b in zip([mine[0], *mine[1]], [theirs[0], *theirs[1]]):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("same", [True, False])
def test_dilated_convolution_is_tensorflows(same: bool) -> None:
    x, kernel = normal(1, 2, 9, 10, 12), normal(2, 3, 2, 12, 12)
    rows, cols = axis(9, 3, 1, 2, same), axis(10, 2, 1, 3, same)
    mine = gradients(lambda x, w: conv2d(x, w, rows, cols), x, kernel)
    high, wide = np.eye(5, dtype=np.float32)[:, ::2], np.eye(4, dtype=np.float32)[:, ::3]

    def stuffed(x: Any, w: Any) -> Any:
        # TensorFlow has no dilated gradient on every CPU: zeros between the taps say the same
        return tf.nn.conv2d(x, tf.einsum("ah,bw,hwio->abio", high, wide, w), 1, "SAME" if same else "VALID")

    theirs = gradients(stuffed, x, kernel)
    for a, b in zip([mine[0], *mine[1]], [theirs[0], *theirs[1]]):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    high=SIZES,
    wide=SIZES,
    k=st.tuples(KERNELS, KERNELS),
    s=st.tuples(STRIDES, STRIDES),
    same=st.booleans(),
    seed=st.integers(0, 99),
)
def test_max_pool_is_tensorflows_on_ties_too(
    high: int, wide: int, k: tuple[int, int], s: tuple[int, int], same: bool, seed: int
) -> None:
    # few distinct values, so that most windows hold their maximum more than once
    x = tf.constant(np.random.default_rng(seed).integers(-2, 2, (2, high, wide, 3)), tf.float32)
    rows, cols = axis(high, k[0], s[0], 1, same), axis(wide, k[1], s[1], 1, same)
    mine = gradients(lambda x: max_pool(x, rows, cols), x)
    theirs = gradients(lambda x: tf.nn.max_pool2d(x, k, s, "SAME" if same else "VALID"), x)
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_allclose(mine[1][0], theirs[1][0], rtol=1e-5, atol=1e-5)


def test_the_odd_padding_comes_after() -> None:
    line = axis(6, 3, 2, 1, True)
    assert (line.before, line.after, line.out) == (0, 1, 3)
    assert axis(6, 3, 1, 1, False) == Axis(6, 3, 1, 1, 0, 0)


def test_dilation_puts_zeros_between() -> None:
    g = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0]), [1, 2, 2, 1])
    line = axis(4, 1, 2, 1, False)
    assert dilate(g, line, line)[0, :, :, 0].numpy().tolist() == [[1, 0, 2, 0], [0] * 4, [3, 0, 4, 0], [0] * 4]


@pytest.mark.parametrize(("ta", "tb"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("wide", [5, 40])
def test_product_is_matmul(ta: bool, tb: bool, wide: int) -> None:
    a, b = normal(1, *((4, 3) if ta else (3, 4))), normal(2, *((wide, 4) if tb else (4, wide)))
    np.testing.assert_allclose(product(a, b, ta, tb), tf.matmul(a, b, ta, tb), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_is_tensorflows_and_stays_finite(scale: float) -> None:
    z, label = normal(1, 6, 4) * scale, tf.constant([0, 1, 2, 3, 0, 1])
    each = LOSSES["sparse_categorical_crossentropy"].each
    mine = gradients(lambda z: each(z, label), z)
    theirs = gradients(lambda z: tf.nn.sparse_softmax_cross_entropy_with_logits(label, z), z)
    assert np.isfinite(mine[0]).all() and np.isfinite(mine[1][0]).all()
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mine[1][0], theirs[1][0], rtol=1e-4, atol=1e-6)


def test_scores_count_hits_and_squares() -> None:
    z = tf.constant([[0.0, 1.0], [3.0, 2.0], [5.0, 9.0]])
    hits = LOSSES["sparse_categorical_crossentropy"].score(z, tf.constant([1, 1, 1]))
    assert hits.numpy().tolist() == [1, 0, 1]
    squares = LOSSES["mean_squared_error"].score(z, tf.constant([[0.0, 3.0], [3.0, 2.0], [5.0, 5.0]]))
    assert squares.numpy().tolist() == [2, 0, 8]


def test_a_class_is_hit_where_the_largest_target_is() -> None:
    z = tf.constant([[0.0, 1.0], [3.0, 2.0], [5.0, 9.0]])
    target = tf.constant([[0.4, 0.6], [0.1, 0.9], [0.0, 1.0]])
    assert LOSSES["categorical_crossentropy"].score(z, target).numpy().tolist() == [1, 0, 1]


def test_scores_of_sides_and_of_distances() -> None:
    z, target = tf.constant([[-3.0, 0.5], [0.5, 4.0]]), tf.constant([[0.0, 0.0], [1.0, 1.0]])
    assert LOSSES["binary_crossentropy"].score(z, target).numpy().tolist() == [0.5, 1]
    assert LOSSES["mean_absolute_error"].score(z, target).numpy().tolist() == [1.75, 1.75]
    assert LOSSES["huber"].score(z, target).numpy().tolist() == [1.75, 1.75]


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("loss", ["binary_crossentropy", "mean_absolute_error", "huber", "mean_squared_error"])
def test_a_loss_by_example_is_keras(loss: str, scale: float) -> None:
    z, target = normal(1, 6, 4) * scale, tf.constant(np.random.default_rng(2).random((6, 4)), tf.float32)
    function = tf.keras.losses.get(loss)
    options = {"from_logits": True} if loss == "binary_crossentropy" else {}
    mine = gradients(lambda z: LOSSES[loss].each(z, target), z)
    theirs = gradients(lambda z: function(target, z, **options), z)
    np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mine[1][0], theirs[1][0], rtol=1e-4, atol=1e-6)
