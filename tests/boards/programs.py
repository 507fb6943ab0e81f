"""A handful of programs in a folder, for training elsewhere: `python programs.py FOLDER`, with whichever TensorFlow is there.

It prints TensorFlow's version. Weights and examples follow from numbers of NumPy's alone, so that two TensorFlows write programs that do the same.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from fedfleet.models import audit, compiler, zoo
from fedfleet.models.dropout import mask
from fedfleet.models.program import convert
from fedfleet.models.quiet import quiet

K = tf.keras
layers = K.layers
CROSS, SQUARE = "sparse_categorical_crossentropy", "mean_squared_error"
SEED = 7
BATCH = 8


class Kind(NamedTuple):
    """A model, what it trains on, and the plan's numbers that are not 0."""

    build: Callable[[], Any]
    loss: str
    plan: Mapping[str, float]


def stacked(shape: tuple[int, ...], *stack: Any) -> Any:
    return K.Sequential([K.Input(shape), *stack, layers.Dense(4, activation="softmax")])


def attention() -> Any:
    inside = K.Input((6, 5))
    x = layers.Dense(8)(inside)
    seen = layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    return K.Model(inside, layers.Dense(3)(layers.Flatten()(layers.LayerNormalization()(seen))))


KINDS: dict[str, Kind] = {
    "digits": Kind(zoo.digits, CROSS, {"learning_rate": 0.05, "momentum": 0.9}),
    "turbofan": Kind(zoo.turbofan, SQUARE, {"learning_rate": 0.02, "clip_norm": 1.0}),
    "tabular": Kind(lambda: zoo.tabular(16, 4), CROSS, {"learning_rate": 0.01, "momentum": 0.9, "second_moment": 0.99}),
    "gru": Kind(lambda: stacked((10, 5), layers.GRU(8)), CROSS, {"learning_rate": 0.1}),
    "dropout": Kind(
        lambda: stacked((12,), layers.Dense(40, "relu"), layers.Dropout(0.5)), CROSS, {"learning_rate": 0.1}
    ),
    "embedding": Kind(
        lambda: stacked((9,), layers.Embedding(30, 6), layers.Conv1D(8, 3, activation="tanh"), layers.Flatten()),
        CROSS,
        {"learning_rate": 0.1, "momentum": 0.5},
    ),
    "attention": Kind(attention, SQUARE, {"learning_rate": 0.05, "proximal": 0.1}),
}


def seeded(model: Any) -> Any:
    """The model with weights of NumPy's, biases too."""
    random = np.random.default_rng(SEED)
    for weight in model.trainable_weights:
        scale = 1.0 / np.sqrt(np.prod(weight.shape[:-1]) + 1)
        weight.assign(random.normal(0, scale, tuple(weight.shape)).astype(np.float32))
    return model


def masks() -> bytes:
    """A program that takes a seed and returns a mask of dropout, 7 x 900 at rate 0.3."""
    spec = tf.TensorSpec([1], tf.int32, "seed")
    concrete = tf.function(lambda seed: {"mask": mask(seed, 3, 7, 900, 0.3)}).get_concrete_function(spec)
    return convert(tf.lite.TFLiteConverter.from_concrete_functions([concrete]))


def write(folder: Path, kind: Kind) -> None:
    """Write a program, its weights, a batch for it and the numbers of its plan."""
    model = seeded(kind.build())
    compiled = compiler.compile(model, kind.loss, batch=BATCH)
    compiled.save(folder)
    np.savez(folder / "batch.npz", **audit.examples(compiled, audit.vocabulary(model)))
    (folder / "plan.json").write_text(json.dumps(kind.plan))


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as aside, quiet(Path(aside) / "tensorflow.log"):
        for name, kind in KINDS.items():
            write(folder / name, kind)
        (folder / "masks.tflite").write_bytes(masks())
    print(tf.__version__)


if __name__ == "__main__":
    main()
