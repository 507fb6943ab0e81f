"""A process with so many replicas that prints digests, and holds them against one-process folds; 0: NumPy alone.

`alike.py digests N` prints what every strategy makes of the same updates, as JSON. `alike.py values N` lets Hypothesis
look for values, codecs and orders that a mean on N replicas takes otherwise than sums.Mean.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfleet.cloud.combine import combined, pooled
from fedfleet.cloud.combine.spread import Wired, spread
from fedfleet.cloud.rules import rows
from fedfleet.cloud.strategies import strategy
from fedfleet.cloud.sums import HEADROOM, Aggregate, Mean, Told
from fedfleet.wire.codecs import grow, shrink
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Plan

P = 1500
NAMES = (
    "fedavg", "scaffold", "fednova", "qfedavg", "clip:3", "filter:3000",
    "median", "trimmed:0.2", "krum:2", "multikrum:2,3", "bulyan:2", "geomedian",
)  # fmt: skip
CODECS = ("float32", "float16", "int8", "int4", "topk:0.1+int8", "float32+zlib")
SIZE = 300
Delta = NDArray[np.float32]


def deltas(count: int) -> list[Delta]:
    """Updates, some of which are alike, some sparse, with zeros of both signs, denormals and large values."""
    random = np.random.Generator(np.random.PCG64(7))
    found = [(random.normal(size=P) * 0.1).astype(np.float32) for _ in range(count)]
    found[3], found[4] = found[2].copy(), -found[2]
    found[5][::3], found[6][::3], found[7][::2] = 0.0, -0.0, np.float32(1e-42)
    found[8][:5] = 1000.0
    return found


def digest(empty: Callable[[str], Aggregate], name: str, count: int) -> str:
    """What `count` updates come to, merged out of two shards."""
    shards = [empty(name), empty(name)]
    for number, delta in enumerate(deltas(count)):
        told = Told(Plan(), {"steps": 3.0, "before": 0.5 + number / 10})
        shards[number % 2].add(delta, 10 + number, told)
    shards[0].merge(shards[1])
    return hashlib.sha256(shards[0].value().tobytes()).hexdigest()


def digests(replicas: int) -> None:
    """Blocks are small, so that each replica has some, and the last ones do not come out even."""
    rows.BLOCK = 2048
    pool = pooled(replicas) if replicas else None

    def empty(name: str) -> Aggregate:
        made = strategy(name).aggregate(P)
        return spread(made, pool) if pool else made

    asked = [(name, 13) for name in NAMES] + [("median", 16), ("trimmed:0.2", 16)]
    print(json.dumps({f"{name} {count}": digest(empty, name, count) for name, count in asked}))


halves = st.integers(-9, 9).map(lambda n: n * 2.0**-31)
plain = st.lists(halves | st.floats(-8, 8, width=32) | st.sampled_from([-0.0, 1e-45, -1e-38]), min_size=1, max_size=12)
odd = st.sampled_from([2.0**32, 2.0**32 - 256, -(2.0**31), float("nan"), float("inf"), 65504.0])
wild = st.lists(odd | st.floats(-(2.0**33), 2.0**33, width=32), min_size=1, max_size=4)
update = st.tuples(plain, st.integers(1, 1000), st.sampled_from(CODECS), st.booleans())
heavy = st.tuples(plain | wild, st.integers(1, HEADROOM), st.sampled_from(CODECS), st.booleans())
updates = st.lists(update | heavy, min_size=1, max_size=20)


def sent(values: list[float], codec: str) -> bytes:
    """The values again and again, as a device sends them, or plain where no device could."""
    delta = np.resize(np.array(values, np.float32), SIZE)
    fit = bool(np.isfinite(delta).all()) and float(np.abs(delta).max()) < HEADROOM
    return shrink(codec, delta, 3) if fit else delta.tobytes()


def refusal(made: Aggregate, codec: str, data: bytes, examples: int, wired: bool = False) -> str:
    """Why an update does not count; empty where it does."""
    try:
        if wired and isinstance(made, Wired):
            made.take(codec, data, examples)
        else:
            made.add(grow(codec, data, SIZE), examples)
    except FrameError as error:
        return str(error)
    return ""


Sent = list[tuple[list[float], int, str, bool]]


def values(replicas: int) -> None:
    """Sums are compared to the bit, refusals by their words."""
    made = combined(strategy("fedavg"), replicas)

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @example([([n * 2.0**-31 for n in (1, 3, 5, -1, -3)], 1, "float32", wired) for wired in (True, False)])
    @example([([1.5], HEADROOM // 2, "float32", True), ([2.0**-24], 1, "float16", True), ([1.0], 1, "float32", False)])
    @given(updates)
    def alike(found: Sent) -> None:
        plain, other = Mean.empty(SIZE), made.aggregate(SIZE)
        assert isinstance(other, Wired)
        for numbers, examples, codec, wired in found:
            data = sent(numbers, codec)
            assert refusal(other, codec, data, examples, wired) == refusal(plain, codec, data, examples)
        assert other.mean.total.tobytes() == plain.total.tobytes()
        assert (other.mean.examples, other.mean.bound) == (plain.examples, plain.bound)

    alike()
    print("alike")


if __name__ == "__main__":
    {"digests": digests, "values": values}[sys.argv[1]](int(sys.argv[2]))
