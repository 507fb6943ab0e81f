"""A process that trains, for tests: `python fitted.py FOLDER STRATEGY REPLICAS MODEL`; weights go to FOLDER/weights.npz.

The rest comes from environment variables: EPOCHS, BATCH, OPTIMIZER, LOSS. It says each epoch's end on a line.
"""

from __future__ import annotations

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

from fedfleet.cloud.training import central  # noqa: E402
from fedfleet.cloud.training.fit import fit  # noqa: E402
from fedfleet.cloud.training.job import Job, Passed  # noqa: E402
from fedfleet.cloud.training.steps import optimizer  # noqa: E402, F401 - for tests
from fedfleet.models import zoo  # noqa: E402
from fedfleet.wire.examples import Examples  # noqa: E402

layers = tf.keras.layers


def unseeded() -> Any:
    """As people write models: nobody says from which seed."""
    stack = [tf.keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(12, activation="tanh"), layers.Dense(10)]
    return tf.keras.Sequential(stack)


def normalized() -> Any:
    """With weights that move without a gradient."""
    stack = [layers.Flatten(), layers.Dense(8), layers.BatchNormalization(), layers.Dense(10)]
    return tf.keras.Sequential([tf.keras.Input((8, 8, 1)), *stack])


MODELS = {"digits": zoo.digits, "unseeded": unseeded, "normalized": normalized}


def examples(loss: str = "sparse_categorical_crossentropy", count: int = 45) -> Examples:
    """45 examples: in batches of 16, the last has 13, in which replicas have different numbers."""
    random = np.random.default_rng(3)
    x, label = random.normal(size=(count, 8, 8, 1)).astype(np.float32), random.integers(0, 10, count).astype(np.int32)
    return Examples(x, label if loss.startswith("sparse") else np.eye(10, dtype=np.float32)[label])


def job(folder: Path, model: str = "digits", **given: Any) -> Job:
    """A job of these examples, in `folder`."""
    options = {"epochs": 3, "batch": 16, "loss": "sparse_categorical_crossentropy"} | given
    return Job(MODELS[model], examples(options["loss"]), folder / "backup", **options)


def main(folder: Path, strategy: str, replicas: int, model: str) -> None:
    """Train, and say so."""
    under = central.strategy(strategy, replicas)
    given = {name: kind(os.environ[name.upper()]) for name, kind in KINDS.items() if name.upper() in os.environ}

    def tell(passed: Passed) -> None:
        if passed.loss is not None:
            print(f"epoch {passed.epoch}", flush=True)

    trained = fit(job(folder, model, **given), under, tell)
    np.savez(folder / "weights.npz", *trained.weights, losses=np.array(trained.losses), resumed=trained.resumed)
    print(trained.strategy)


KINDS: dict[str, Any] = {"epochs": int, "batch": int, "optimizer": str, "loss": str}
if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
