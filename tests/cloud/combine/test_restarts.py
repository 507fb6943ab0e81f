"""Aggregators on replicas that are killed and started again: what the journal has comes to the same bits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from federations import UNINTERRUPTED, world

from fedfleet.cloud.combine import ALL, combined
from fedfleet.cloud.rounds import Round
from fedfleet.cloud.strategies import strategy
from fedfleet.wire.codecs import shrink
from fedfleet.wire.messages import Blob, Plan, Receipt, Task, Update

P = 600


@pytest.fixture(autouse=True, scope="module")
def tensorflow() -> Iterator[None]:
    with warnings.catch_warnings():  # TensorFlow's own, while it is imported
        warnings.simplefilter("ignore")
        import tensorflow as tf
    yield
    assert tf.executing_eagerly()


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "median"])
def test_a_restart_in_every_round_changes_no_bit(name: str) -> None:
    with world(strategy=name) as found:
        whole = found.play()
    assert (name == "fedavg") == (whole == UNINTERRUPTED)
    with world(strategy=name, replicas=1) as found:
        for number in (1, 2, 3):
            found.until(number)
            for actor in (1, 0, 1, 0, 2, 0):
                found.act(actor)
            found.cloud_dies()
            found.cloud_starts()
        assert found.play() == whole


def opened(replicas: int) -> Round:
    blob = Blob("0" * 64, 4 * P)
    made = combined(strategy("fedavg"), replicas).aggregate(P)
    return Round(Task(3, blob, blob, Plan(), staleness=2), P, made, 1, (), oldest=1)


def update(device: int, codec: str, number: int = 3, scale: float = 1.0) -> Update:
    delta = np.random.Generator(np.random.PCG64(device)).normal(size=P).astype(np.float32) * np.float32(scale)
    return Update(number, f"d{device}", 10 + device, codec, shrink(codec, delta, device))


def test_rounds_take_updates_alike_encoded_late_twice_or_refused() -> None:
    updates = [update(i, codec) for i, codec in enumerate(("float32", "float16", "int8", "int4", "topk:0.1+int8+zlib"))]
    late = [update(7, "int8", 2), update(8, "float32", 1)]
    bad = [
        Update(3, "d9", 5, "float16", b"\xff" * 2 * P),
        Update(3, "d10", 5, "int4", b"1"),
        update(11, "int8", 3, 1e9),
    ]
    answers: list[list[Receipt]] = []
    values = []
    for replicas in (0, 1, ALL):
        found = opened(replicas)
        answers.append([found.take(each) for each in (*updates, *late, *bad, *updates, *late)])
        values.append(found.aggregate.value().tobytes())
        assert (found.reported, sorted(found.declined)) == (7, ["d10", "d11", "d9"])
    assert answers[0] == answers[1] == answers[2]
    assert values[0] == values[1] == values[2]
    assert [answer.outcome for answer in answers[0]] == ["counted"] * 7 + ["refused"] * 3 + ["counted"] * 7
