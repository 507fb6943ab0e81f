"""A chief, for tests: `python served.py FOLDER EPOCHS`, its place in TF_CONFIG; weights go to FOLDER/weights.npz.

After every epoch it says so on a line and waits for one on its standard input, so that a test can do its mischief in time.
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

from fedfleet.cloud.training import servers  # noqa: E402
from fedfleet.cloud.training.cluster import cluster, reach  # noqa: E402
from fedfleet.cloud.training.job import Job, Passed  # noqa: E402
from fedfleet.wire.errors import FedfleetError  # noqa: E402
from fedfleet.wire.examples import Examples  # noqa: E402

layers = tf.keras.layers
tf.get_logger().setLevel("INFO")  # it says there who is lost, and who is back


def build() -> Any:
    """A small classifier; its last layer is a softmax."""
    stack = [tf.keras.Input((20,)), layers.Dense(16, activation="relu"), layers.Dense(4, activation="softmax")]
    return tf.keras.Sequential(stack)


def examples() -> Examples:
    """1000 examples of 4 classes, which a few epochs tell apart; no whole number of batches."""
    random = np.random.default_rng(3)
    x = random.normal(size=(1000, 20)).astype(np.float32)
    return Examples(x, (x @ random.normal(size=(20, 4))).argmax(1).astype(np.int32))


def accuracy(weights: Any, of: Examples) -> float:
    model = build()
    model.set_weights(list(weights))
    return float(np.mean(np.asarray(model(of.x)).argmax(1) == of.y))


def tell(passed: Passed) -> None:
    if passed.loss is not None:
        print("epoch", passed.epoch, f"{passed.loss:.4f}", flush=True)
        sys.stdin.readline()


def main(folder: Path, epochs: int) -> None:
    place = cluster(os.environ["TF_CONFIG"])
    reach(place, 100.0)
    job = Job(build, examples(), folder / "backup", epochs=epochs, batch=32, learning_rate=0.05)
    try:
        trained = servers.train(job, servers.strategy(place), place, float(os.environ.get("WAIT", "100")), tell)
    except FedfleetError as error:
        print("refused", error, flush=True)
        raise SystemExit(2) from None
    np.savez(folder / "weights.npz", *trained.weights)
    facts = {"resumed": trained.resumed, "losses": trained.losses, "strategy": trained.strategy}
    print("done", json.dumps(facts | {"accuracy": accuracy(trained.weights, job.examples)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
