"""A process that adds updates up and nothing else, for benchmarks/aggregate.py: prints as JSON what that took.

`adding.py time PARAMETERS CLIENTS` takes a lap again and again, over more updates than the processor's caches hold.
`adding.py grow PARAMETERS COUNT...` takes one update after the other into a round and says its peak at each COUNT.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import watch
from numpy.typing import NDArray

from fedfleet.cloud.rounds import Round
from fedfleet.cloud.sums import Mean
from fedfleet.wire.codecs import PLAIN, Weights, grow
from fedfleet.wire.messages import Blob, Plan, Task, Update

LAPS = 5
COLD = 96_000_000  # bytes; more than a cache holds
LIMIT = 64_000_000  # weights that are read once for the memory's own speed
EXAMPLES = 10  # of the first client; each further one has one more


def updates(parameters: int, clients: int) -> list[bytes]:
    """Updates as they come off the wire, as many as are needed to leave the caches; no two are alike."""
    base = first(parameters)
    return [(base + np.float32(i * 1e-4)).tobytes() for i in range(min(clients, 2 + COLD // (4 * parameters)))]


def first(parameters: int) -> Weights:
    """What all updates are made from."""
    return (np.random.default_rng(0).standard_normal(parameters) * 0.01).astype(np.float32)


def timed(parameters: int, clients: int) -> dict[str, Any]:
    """Seconds for the mean of `clients` updates: from arrays, from bytes, and for reading them once and no more."""
    held = updates(parameters, clients)
    arrays = [np.frombuffer(each, np.float32) for each in held]

    def summed(one: Callable[[int], Weights]) -> NDArray[np.float64]:
        mean = Mean.empty(parameters)
        for i in range(clients):
            mean.add(one(i % len(held)), EXAMPLES + i)
        return mean.value()

    return {
        "sum": best(lambda: summed(lambda i: arrays[i])),
        "whole": best(lambda: summed(lambda i: grow(PLAIN, held[i], parameters))),
        "limit": clients * parameters * reading(),
        "digest": hashlib.sha256(summed(lambda i: arrays[i]).tobytes()).hexdigest(),
    }


def best(lap: Callable[[], object]) -> float:
    """The seconds of the shortest of some laps."""
    found = []
    for _ in range(LAPS):
        began = time.perf_counter()
        lap()
        found.append(time.perf_counter() - began)
    return min(found)


def reading() -> float:
    """Seconds that the memory takes to hand one float32 to the processor, all cores reading (a product by BLAS)."""
    values = np.ones(LIMIT, np.float32)
    return best(lambda: values @ values) / LIMIT


def grown(parameters: int, counts: Sequence[int]) -> Mapping[str, float]:
    """The peak memory, in MiB, of this process when a round has taken so many updates from so many devices."""
    blob = Blob("0" * 64, 4 * parameters)
    round_ = Round(Task(1, blob, blob, Plan()), parameters, Mean.empty(parameters), 1, ())
    base, peaks = first(parameters), {}
    for i in range(max(counts)):
        delta = (base + np.float32(i * 1e-5)).tobytes()
        receipt = round_.take(Update(1, f"d{i}", EXAMPLES + i, PLAIN, delta, {"loss": 0.5, "seconds": 1.0}))
        assert receipt.outcome == "counted", receipt.reason
        if i + 1 in counts:
            peaks[str(i + 1)] = watch.peak_mib(os.getpid())
    round_.aggregate.value()
    return {**peaks, "value": watch.peak_mib(os.getpid())}


if __name__ == "__main__":
    kind, *numbers = sys.argv[1:]
    parameters, *others = map(int, numbers)
    print(json.dumps(timed(parameters, others[0]) if kind == "time" else grown(parameters, others)))
