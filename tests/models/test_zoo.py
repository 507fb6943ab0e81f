from __future__ import annotations

import hashlib
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
    "tabular": (zoo.ZOO["tabular"].build, 3_300, (4,)),
    "activity": (zoo.activity, 15_398, (6,)),
    "vibration": (zoo.vibration, 25_992, (128,)),
    "keywords": (zoo.keywords, 22_604, (12,)),
    "photos": (zoo.photos, 210_850, (2,)),
    "readings": (zoo.readings, 4_164, (4,)),
}


BEGIN = {"digits": "d8728d07dd61", "mnist": "a80550e943ce", "turbofan": "6a43b1c081ef", "classes": "1c67432a5286"}


def test_all_of_the_zoo_is_looked_at_here() -> None:
    assert zoo.ZOO.keys() <= MODELS.keys()
    assert all(ready.use and ready.build.__doc__ for ready in zoo.ZOO.values())


@pytest.mark.parametrize("name", BEGIN)
def test_a_run_of_an_older_release_can_be_repeated(name: str) -> None:
    assert hashlib.sha256(compiler.flatten(MODELS[name][0]()).tobytes()).hexdigest()[:12] == BEGIN[name]


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


def test_depthwise_kernels_start_at_the_size_of_their_few_taps() -> None:
    kernels = [w.numpy() for w in zoo.keywords().trainable_weights if tuple(w.shape) == (3, 3, 64, 1)]
    assert len(kernels) == 4
    for kernel in kernels:
        assert kernel.std() == pytest.approx(np.sqrt(2 / 9), rel=0.1)


def test_photos_trains_its_head_alone_on_a_backbone_of_yours() -> None:
    layers = tf.keras.layers
    conv = layers.Conv2D(5, 3, kernel_initializer=tf.keras.initializers.GlorotUniform(1))
    mine = tf.keras.Sequential([tf.keras.Input((12, 10, 3)), conv, layers.BatchNormalization()])
    model = zoo.photos(3, backbone=mine)
    assert [tuple(w.shape) for w in model.trainable_weights] == [(5, 3), (3,)]
    assert not mine.trainable
    compiled = compiler.compile(model, "sparse_categorical_crossentropy", batch=2)
    assert audit.audit(model, compiled).difference < 1e-4


def test_the_backbone_sees_differences_through_all_of_its_blocks() -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (2, 96, 96, 3)).astype(np.float32)
    one, two = zoo.mobile()(images).numpy()
    assert one.shape == (3, 3, 256)
    assert np.abs(one - two).mean() > 1e-4


def test_an_autoencoder_learns_what_is_usual(run: Any) -> None:
    random = np.random.default_rng(4)
    usual = random.random((3, 128)).astype(np.float32)
    compiled = compiler.compile(zoo.vibration(), "mean_squared_error", batch=16)
    functions, ones = run(compiled), np.ones(16, np.float32)
    for _ in range(400):
        x = usual[random.integers(0, 3, 16)]
        audit.step(functions, {"x": x, "y": x, "weight": ones}, learning_rate=0.3, momentum=0.9)
    errors = [((functions["infer"](x=x[None])["output"] - x) ** 2).mean() for x in (*usual, usual[0, ::-1].copy())]
    assert max(errors[:3]) * 5 < errors[3], errors


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
