from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from fedfleet.models import audit, compiler, zoo

MODELS: dict[str, tuple[Callable[..., Any], int, tuple[int, ...]]] = {
    "digits": (zoo.digits, 13_706, (10,)),
    "mnist": (zoo.mnist, 1_663_370, (10,)),
    "turbofan": (zoo.turbofan, 8_129, (1,)),
    "classes": (lambda seed=0: zoo.tabular(20, 4, seed=seed), 3_556, (4,)),
    "regression": (lambda seed=0: zoo.tabular(20, None, seed=seed), 3_457, (1,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_size_and_output(name: str) -> None:
    build, parameters, output = MODELS[name]
    model = build()
    assert model.count_params() == parameters
    assert tuple(model.output_shape[1:]) == output


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    build = MODELS[name][0]
    tf.keras.utils.set_random_seed(1)
    one = compiler.flatten(build())
    tf.keras.utils.set_random_seed(2)
    two, other = compiler.flatten(build()), compiler.flatten(build(seed=7))
    np.testing.assert_array_equal(one, two)
    assert (one != other).mean() > 0.9


def test_layers_of_one_shape_start_differently() -> None:
    kernels = [w.numpy() for w in zoo.tabular(32, 32).trainable_weights if tuple(w.shape) == (64, 32)]
    assert len(kernels) == 1
    first, second = (w.numpy().reshape(-1)[:8] for w in zoo.tabular(64, 64).trainable_weights[:3:2])
    assert (first != second).all()


def test_digits_learns_to_read_on_the_device_program(run: Any) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    images, labels = (data.images[..., None] / 16).astype(np.float32), data.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(labels))
    held, seen = order[:360], order[360:]
    compiled = compiler.compile(zoo.digits(), "sparse_categorical_crossentropy", batch=16)
    functions, ones = run(compiled), np.ones(16, np.float32)
    random = np.random.default_rng(1)
    for _ in range(12):
        for rows in random.permutation(seen)[: len(seen) // 16 * 16].reshape(-1, 16):
            batch = {"x": images[rows], "y": labels[rows], "weight": ones}
            audit.step(functions, batch, learning_rate=0.02, momentum=0.9)
    output = [functions["infer"](x=images[i : i + 1])["output"][0] for i in held]
    assert (np.argmax(output, 1) == labels[held]).mean() >= 0.97
