"""Whole federations whose updates are encoded: the same exact sums, and devices that know no codec among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from federations import ALL, PROGRAM, UNINTERRUPTED, fedavg, weights, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.rounds import Round
from fedfleet.cloud.sums import Mean
from fedfleet.edge.trainer import Stop
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.codecs import shrink
from fedfleet.wire.messages import Blob, Plan, Task, Update

INT4 = Plan(codec="topk:0.5+int4+zlib")
CODED = fedavg({1: ALL, 2: ALL, 3: ALL}, plan=INT4)


class Old:
    """A device that knows float32 alone, whatever the plan says."""

    def __init__(self, device: str, examples: int) -> None:
        self.inner = SeededTrainer(device, examples)

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Train as if the plan said nothing of a codec."""
        return self.inner.train(replace(task, plan=Plan()), program, weights, stop)

    def close(self) -> None:
        """Nothing was started."""


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=40))
def test_encoded_updates_add_up_to_the_same_bits_in_any_order(schedule: list[int]) -> None:
    with world(plan=INT4) as found:
        for actor in schedule:
            if actor == 4:
                found.cloud_dies()
                found.cloud_starts()
            elif not found.cloud.done:
                found.act(actor)
        assert found.play() == CODED != UNINTERRUPTED


def test_fewer_bytes_come_up() -> None:
    with world(plan=INT4) as coded, world() as plain:
        coded.play()
        plain.play()
        saved = [a.bytes_up - b.bytes_up for a, b in zip(plain.records, coded.records)]
    assert all(3 * 100 < bytes_ < 3 * 4 * weights().size for bytes_ in saved)


def test_a_device_that_knows_no_codec_takes_part() -> None:
    with world(plan=INT4, trainers={"d1": Old("d1", 20)}) as found:
        mixed = found.play()
        assert {record.reported for record in found.records} == {3}
    assert mixed not in (CODED, UNINTERRUPTED)


def test_what_does_not_grow_is_refused_in_words() -> None:
    name = "topk:0.5+int8"
    task = Task(3, Blob.of(PROGRAM), Blob("b" * 64, 16), Plan(codec=name))
    data = shrink(name, weights()[:4], 1)
    found = Round(task, 4, Mean.empty(4), 1, ["a", "b"])
    for device, bad, reason in (
        ("a", data[:-1], "update has 4 bytes, but 4 parameters take 5"),
        ("b", b"\7" + data[1:], "not 2 of the first 4 bits are set"),
    ):
        receipt = found.take(Update(3, device, 5, name, bad))
        assert receipt.outcome == "refused"
        assert reason in receipt.reason
    assert not found.counted
    assert found.take(Update(3, "a", 5, name, data)).outcome == "counted"
