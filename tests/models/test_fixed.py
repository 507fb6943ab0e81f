"""Frozen layers: constant kernels run as the builtins they are, and what lies before all that trains has no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from parity import gradients, normal, same, train

from fedfleet.models import audit, compiler, fixed
from fedfleet.models.conv import axis, conv2d
from fedfleet.models.ops import LOWER
from fedfleet.models.trace import Node

layers = tf.keras.layers
CROSS = "sparse_categorical_crossentropy"


def lines(kernel: tuple[int, int], stride: tuple[int, int], dilation: int, same: bool) -> Any:
    """The axes over an input of 9 x 8."""
    return [axis(size, k, s, dilation, same) for size, k, s in zip((9, 8), kernel, stride)]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [((3, 3), (1, 1), 1), ((3, 2), (2, 1), 1), ((1, 1), (1, 1), 1), ((1, 1), (2, 2), 1), ((3, 3), (1, 1), 2), ((2, 4), (3, 2), 1)],
)  # fmt: skip
def test_a_convolution(kernel: tuple[int, int], stride: tuple[int, int], dilation: int, padding: str) -> None:
    x, taps = normal(1, 2, 9, 8, 3), normal(2, *kernel, 3, 4)
    rows, cols = lines(kernel, stride, dilation, padding == "SAME")
    value, gradient = gradients(lambda x: fixed.conv2d(x, taps.numpy(), rows, cols), x)
    same([value], [tf.nn.conv2d(x, taps, stride, padding, dilations=dilation)], 1e-4)
    # TensorFlow has no gradient of a dilated convolution on a CPU; that of run-time kernels is tested against others
    same([gradient], gradients(lambda x: conv2d(x, taps, rows, cols), x)[1:], 1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 3), 2), ((2, 4), 3)])
def test_a_depthwise_convolution(kernel: tuple[int, int], stride: int, padding: str) -> None:
    x, taps = normal(1, 2, 9, 8, 3), normal(2, *kernel, 3)
    rows, cols = lines(kernel, (stride, stride), 1, padding == "SAME")
    mine = gradients(lambda x: fixed.depthwise(x, taps.numpy(), rows, cols), x)
    steps = [1, stride, stride, 1]
    same(mine, gradients(lambda x: tf.nn.depthwise_conv2d(x, taps[..., None], steps, padding), x), 1e-4)


def test_a_product() -> None:
    x, kernel = normal(1, 5, 4), normal(2, 4, 3)
    same(gradients(lambda x: fixed.product(x, kernel.numpy()), x), gradients(lambda x: tf.matmul(x, kernel), x))


@pytest.mark.parametrize("flip", [False, True])
def test_a_product_as_the_graph_has_it(flip: bool) -> None:
    x, kernel = normal(1, 5, 4), normal(2, *((3, 4) if flip else (4, 3)))
    node = Node("matmul", "MatMul", (), (), {"transpose_a": False, "transpose_b": flip})
    mine = gradients(lambda x: LOWER["MatMul"](node, x, kernel.numpy()), x)
    same(mine, gradients(lambda x: tf.matmul(x, kernel, transpose_b=flip), x))


STACKS: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]]]] = {
    "conv": ((9, 8, 4), lambda: [layers.Conv2D(6, 3, strides=2, padding="same", activation="tanh")]),
    "groups": ((9, 8, 4), lambda: [layers.Conv2D(6, 3, groups=2)]),
    "dilated": ((9, 8, 4), lambda: [layers.Conv2D(6, 3, dilation_rate=2)]),
    "conv1d": ((12, 4), lambda: [layers.Conv1D(6, 3, padding="causal")]),
    "separable": ((9, 8, 4), lambda: [layers.SeparableConv2D(6, 3, depth_multiplier=2)]),
    "dense": ((9, 4), lambda: [layers.Dense(6, activation="tanh")]),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_frozen_layer_between_two_that_train(name: str, stack: Any, run: Any) -> None:
    """Its input's gradient is needed, its own is not."""
    shape, build = STACKS[name]
    frozen = build()
    for layer in frozen:
        layer.trainable = False
    model = stack(shape, layers.Dense(4, activation="tanh"), *frozen, layers.Flatten(), layers.Dense(3))
    compiled = compiler.compile(model, CROSS, batch=5)
    assert len(compiled.layout) == 4
    assert train(model, compiled, run(compiled), 10) < 1e-4


def test_a_frozen_body_costs_its_forward_pass_alone(stack: Any) -> None:
    """Train, evaluate and infer hold each of its ops once: there is no gradient of any."""
    body = [
        layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, padding="same", activation="relu"),
        layers.Conv2D(16, 1),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(12, activation="sigmoid"),
    ]
    head = layers.Dense(3)
    whole = audit.histogram(compiler.compile(stack((16, 16, 3), *body, head), CROSS, batch=4).program)
    for layer in body:
        layer.trainable = False
    ops = audit.histogram(compiler.compile(stack((16, 16, 3), *body, head), CROSS, batch=4).program)
    alone = audit.histogram(compiler.compile(stack((12,), layers.Dense(3)), CROSS, batch=4).program)
    more = {name: count - alone.get(name, 0) for name, count in ops.items() if count != alone.get(name, 0)}
    products = more.pop("FULLY_CONNECTED", 0) + more.pop("BATCH_MATMUL", 0)
    more.pop("RESHAPE", None)
    more.pop("TRANSPOSE", None)
    # the bias of the second convolution is added after its pooling (see rewrite.py), all others within their ops
    assert more == {"ADD": 3, "CONV_2D": 6, "DEPTHWISE_CONV_2D": 3, "MAX_POOL_2D": 3, "LOGISTIC": 3}
    assert products == 3
    assert sum(whole.values()) > sum(ops.values()) + 40
