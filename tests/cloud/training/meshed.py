"""What training over a mesh comes to, for tests: `python meshed.py FOLDER GRID MODEL...`; a line of JSON for each model.

It says how far the weights are from those that one device trains, and what lies on each device.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402 - TensorFlow reads the environment as it is loaded
import tensorflow as tf  # noqa: E402
from tensorflow.experimental import dtensor  # noqa: E402

from fedfleet.cloud.training import grid, mesh  # noqa: E402
from fedfleet.cloud.training.fit import fit  # noqa: E402
from fedfleet.cloud.training.job import Job  # noqa: E402
from fedfleet.cloud.training.laid import Laid  # noqa: E402
from fedfleet.models import zoo  # noqa: E402
from fedfleet.wire.errors import FedfleetError  # noqa: E402
from fedfleet.wire.examples import Examples  # noqa: E402

layers = tf.keras.layers


class Moody(layers.Layer):  # type: ignore[misc]
    """Another slope every time that it is traced, as an op that a mesh computes wrongly has."""

    traced = 0

    def call(self, x: Any) -> Any:
        Moody.traced += 1
        return x * float(Moody.traced)


STACKS: dict[str, Any] = {
    "dense": lambda: [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(24, activation="tanh")],
    "odd": lambda: [layers.Flatten(), layers.Dense(7, activation="relu")],
    "conv": lambda: [layers.Conv2D(8, 3, padding="same", activation="relu"), layers.MaxPooling2D(), layers.Flatten()],
    "embedding": lambda: [layers.Flatten(), layers.Embedding(10, 8), layers.Flatten(), layers.Dense(16)],
    "gathered": lambda: [layers.Flatten(), layers.Embedding(10, 8), layers.Conv1D(8, 3, strides=4), layers.Flatten()],
    "normalized": lambda: [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()],
    "recurrent": lambda: [layers.Reshape((8, 8)), layers.LSTM(8)],
    "dropout": lambda: [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dropout(0.5)],
    "moody": lambda: [layers.Flatten(), layers.Dense(8), Moody()],
}


def build(model: str) -> Any:
    if model == "digits":
        return zoo.digits()
    stack = [tf.keras.Input((8, 8, 1)), *STACKS[model](), layers.Dense(4, activation="softmax")]
    return tf.keras.Sequential(stack)


def examples() -> Examples:
    """60 examples; the last batch of 16 has 12."""
    random = np.random.default_rng(3)
    return Examples(
        random.integers(0, 10, (60, 8, 8, 1)).astype(np.float32) / 10, random.integers(0, 4, 60).astype(np.int32)
    )


def job(folder: Path, name: str, epochs: int = 2) -> Job:
    """`MODEL` or `MODEL:OPTIMIZER`."""
    model, _, optimizer = name.partition(":")
    return Job(
        lambda: build(model), examples(), folder, epochs=epochs, batch=16, optimizer=optimizer or "momentum",
        learning_rate=0.01,
    )  # fmt: skip


def apart(a: Any, b: Any) -> list[float]:
    return [float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True)]


def on_each(model: str, over: Any) -> list[int]:
    """How many bytes of weights each device holds."""
    laid = Laid(build(model), over, apart=True)
    pieces = [dtensor.unpack(each.read_value()) for each in laid.variables]
    return [sum(piece[i].numpy().nbytes for piece in pieces) for i in range(over.size)]


def outcome(folder: Path, name: str, over: Any) -> dict[str, Any]:
    try:
        found = mesh.train(job(folder / "mesh" / name, name), over)
    except FedfleetError as error:
        return {"refused": str(error)}
    one = fit(job(folder / "one" / name, name), tf.distribute.OneDeviceStrategy("CPU:0"))
    return {
        "apart": apart(found.weights, one.weights),
        "losses": apart(found.losses, one.losses),
        "strategy": found.strategy,
        "bytes": [sum(each.nbytes for each in found.weights), on_each(name.partition(":")[0], over)],
    }


def again(folder: Path, name: str, over: Any) -> dict[str, Any]:
    """Two epochs and then one more, against three at once."""
    mesh.train(job(folder / "again", name, 2), over)
    after = mesh.train(job(folder / "again", name, 3), over)
    straight = mesh.train(job(folder / "straight", name, 3), over)
    return {"resumed": after.resumed, "epochs": len(after.losses), "apart": apart(after.weights, straight.weights)}


def main(folder: Path, text: str, names: list[str]) -> None:
    over = mesh.mesh(grid.parse(text))
    for name in names:
        found = (
            again(folder, name.removeprefix("again:"), over)
            if name.startswith("again:")
            else outcome(folder, name, over)
        )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
