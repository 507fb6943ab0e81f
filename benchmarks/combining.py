"""A process that combines updates on so many replicas, for benchmarks/combine.py; 0: sums.Mean by NumPy, no TensorFlow.

`combining.py REPLICAS PARAMETERS` says what it has, then reads a line at a time and answers each in JSON: `lap COUNT`
with the seconds from the bytes of COUNT updates to their mean, `device COUNT` with bytes a second of each device alone,
for a model of COUNT weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from adding import EXAMPLES, updates

from fedfleet.cloud.combine import combined, pooled
from fedfleet.cloud.combine.held import values
from fedfleet.cloud.combine.spread import EACH
from fedfleet.cloud.strategies import strategy
from fedfleet.cloud.sums import Decoding
from fedfleet.wire.codecs import PLAIN, grow

PASSES = 20
HOLD = 100


def lap(made: Any, held: list[bytes], count: int) -> dict[str, Any]:
    """One mean of `count` updates, as a round takes them."""
    parameters = len(held[0]) // 4
    began = time.perf_counter()
    mean = made.aggregate(parameters)
    for i in range(count):
        data = held[i % len(held)]
        if isinstance(mean, Decoding):
            mean.take(PLAIN, data, EXAMPLES + i)
        else:
            mean.add(grow(PLAIN, data, parameters), EXAMPLES + i)
    found = mean.value()
    return {"seconds": time.perf_counter() - began, "digest": hashlib.sha256(found.tobytes()).hexdigest()}


def device(replicas: int, parameters: int) -> dict[str, float]:
    """Bytes a second that folding moves where updates lie on the devices already, and that a plain copy moves there."""
    import tensorflow as tf

    pool: Any = pooled(replicas)
    one = values(np.ones(parameters, np.float32))
    dealt, step = pool.dealt([(one, 1)] * (EACH * pool.replicas)), pool.step(one.kind)
    add = tf.function(lambda x: x + 1.0, jit_compile=True)
    folding = repeated(lambda total: step(total, *dealt), pool.zeros(parameters), pool.strategy)
    copying = repeated(add, tf.zeros(4 * parameters), pool.strategy)
    bytes_folded, bytes_copied = parameters * (4 * EACH + 16), 4 * parameters * 8
    return {"folding": bytes_folded / folding, "copying": bytes_copied / copying}


def repeated(step: Callable[[Any], Any], start: Any, strategy: Any) -> float:
    """Seconds that a step takes of many, each on what the last has left, once all devices are done."""

    def done(found: Any) -> None:
        for each in strategy.experimental_local_results(found):
            each[0].numpy()

    found = step(start)
    done(found)
    began = time.perf_counter()
    for _ in range(PASSES):
        found = step(found)
    done(found)
    return (time.perf_counter() - began) / PASSES


def gpus(replicas: int) -> list[str]:
    """Names of the GPUs that TensorFlow sees."""
    if replicas == 0:
        return []
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return [str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)) for gpu in found]


def main(replicas: int, parameters: int) -> None:
    """Answer until there is nothing more to read."""
    made, held = combined(strategy("fedavg"), replicas), updates(parameters, HOLD)
    print(json.dumps({"gpus": gpus(replicas)}), flush=True)
    for line in sys.stdin:
        verb, count = line.split()
        found = device(replicas, int(count)) if verb == "device" else lap(made, held, int(count))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
