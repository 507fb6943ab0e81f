"""One of several worker processes that share updates out among themselves, and hold what they have together against the
sum in one process. `worker.py INDEX PORT PORT...` is worker INDEX of as many as there are ports.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

import numpy as np

P, COUNT = 700, 9


def update(number: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], int]:
    random = np.random.Generator(np.random.PCG64(number))
    return random.normal(size=P).astype(np.float32), 10 + number


def main(index: int, ports: list[str]) -> None:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
    import tensorflow as tf

    from fedfleet.cloud.combine.workers import joined
    from fedfleet.cloud.sums import HEADROOM, Mean
    from fedfleet.wire.errors import FrameError

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    mean, whole = Mean.empty(P), Mean.empty(P)
    for number in range(COUNT):
        whole.add(*update(number))
        if number % len(ports) == index:
            mean.add(*update(number))
    found = joined(mean, strategy)
    assert (found.examples, found.bound) == (whole.examples, whole.bound)
    assert found.total.tobytes() == whole.total.tobytes()
    full = Mean.empty(P)
    full.add(np.full(P, 0.5, np.float32), HEADROOM)
    try:
        joined(full, strategy)
    except FrameError as error:
        print(hashlib.sha256(found.value().tobytes()).hexdigest(), error)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
