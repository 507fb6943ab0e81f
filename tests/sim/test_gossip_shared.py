"""What neighbours show each other: whole models only, whatever order their parts come in, and bounded."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.sim.gossip.shared import ANNOUNCED, Announced, Neighbour, announced, parts
from fedfleet.wire import frames
from fedfleet.wire.chunks import Part
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import CHUNK, Blob, decode, encode
from fedfleet.wire.record import Mismatch, plain
from fedfleet.wire.topics import Topics

SIZE = 40_000  # weights: three chunks


def model(value: float) -> Weights:
    return np.full(SIZE, value, np.float32) + np.arange(SIZE, dtype=np.float32)


def shown(round_: int, value: float) -> list[tuple[str, bytes]]:
    data = model(value).tobytes()
    return [announced(round_, data, ()), *parts(round_, data)]


@given(st.permutations(range(8)))
def test_two_rounds_in_any_order_are_told_apart(order: list[int]) -> None:
    near, frames_ = Neighbour(4 * SIZE), [(1, one) for one in shown(1, 1.0)] + [(2, one) for one in shown(2, 2.0)]
    for at in order:
        round_, (part, frame) = frames_[at]
        near.take(round_ % 2, part, frame)
    for round_ in (1, 2):
        found = near.model(round_)
        assert found is not None
        np.testing.assert_array_equal(found, model(round_))
    assert near.model(3) is None


def test_a_part_is_at_most_a_chunk_and_a_model_is_there_with_the_last() -> None:
    near, frames_ = Neighbour(4 * SIZE), shown(1, 0.5)
    assert len(frames_) == 4
    assert all(len(frame) < CHUNK + 1024 for _, frame in frames_)
    for part, frame in frames_[:-1]:
        near.take(1, part, frame)
        assert near.model(1) is None
    near.take(1, *frames_[-1])
    assert near.model(1) is not None
    near.forget(1)
    assert near.model(1) is None


def test_parts_of_another_model_do_not_complete_the_one_announced() -> None:
    near = Neighbour(4 * SIZE)
    for part, frame in [shown(1, 1.0)[0], *shown(3, 3.0)[1:]]:
        near.take(1, part, frame)
    assert near.model(1) is None


def test_an_announcement_names_whom_the_device_is_without() -> None:
    part, frame = announced(7, model(0).tobytes(), ("d3", "d5"))
    found = Neighbour(4 * SIZE).take(1, part, frame)
    assert found == Announced(7, Blob.of(model(0).tobytes()), ("d3", "d5"))


@pytest.mark.parametrize(
    ("part", "frame", "text"),
    [
        (ANNOUNCED, b"FLT1", "truncated"),
        (ANNOUNCED, announced(1, bytes(400), ())[1], "a model of 400 bytes, not 160000"),
        ("3", parts(1, model(0).tobytes())[0][1], "part '3' is none"),
        ("9", frames.pack({"kind": "part", **plain(Part(1, "0" * 64, 9))}, b"x"), "part '9' is none"),
        ("-1", frames.pack({"kind": "part", **plain(Part(1, "0" * 64, -1))}, b"x"), "part '-1' is none"),
    ],
)
def test_what_cannot_be_of_a_model_is_refused_before_it_is_kept(part: str, frame: bytes, text: str) -> None:
    near = Neighbour(4 * SIZE)
    with pytest.raises(FrameError, match=text):
        near.take(1, part, frame)


def test_a_model_with_other_bytes_or_numbers_that_are_not_finite_is_refused() -> None:
    near, frames_ = Neighbour(4 * SIZE), shown(1, 1.0)
    head, body = frames.unpack(frames_[1][1])
    near.take(1, *frames_[0])
    near.take(1, "0", frames.pack(head, bytes(len(body))))
    for part, frame in frames_[2:]:
        near.take(1, part, frame)
    with pytest.raises(FrameError, match="other bytes than its name says"):
        near.model(1)
    for part, frame in shown(2, np.nan):
        near.take(0, part, frame)
    with pytest.raises(FrameError, match="not finite"):
        near.model(2)


def test_an_announcement_is_bounded() -> None:
    blob = Blob.of(b"x")
    for fields in ({"round": 0}, {"without": tuple(f"d{n}" for n in range(300))}, {"without": ("No/Device",)}):
        with pytest.raises(Mismatch):
            Announced(**{"round": 1, "blob": blob, **fields})  # type: ignore[arg-type]


def test_the_golden_announcement_is_that_of_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
    found = re.search(r"<!-- golden announced -->\s*```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    frame = bytes.fromhex(found.group(1))
    assert frame == encode(Announced(3, Blob("0" * 64, 4096), ("d3",)))
    assert decode(Announced, frame).without == ("d3",)


def test_topics_say_who_shows_what() -> None:
    topics = Topics("pumps")
    assert topics.model("d3", 1, 0) == "fedfleet/v1/pumps/device/d3/model/1/0"
    assert topics.model("d3") == "fedfleet/v1/pumps/device/d3/model/+/+"
    assert topics.shown("fedfleet/v1/pumps/device/d3/model/1/announced") == ("d3", 1, "announced")
    for wrong in ("2/0", "1", "1/0/0", "x/0"):
        with pytest.raises(FrameError, match="shows no model"):
            topics.shown(f"fedfleet/v1/pumps/device/d3/model/{wrong}")
    with pytest.raises(FrameError, match="shows no model"):
        topics.shown("fedfleet/v1/mills/device/d3/model/1/0")
