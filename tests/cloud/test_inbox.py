"""Updates in parts: any order, any repetition, several devices at once, and whatever a device may say."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.inbox import Inbox
from fedfleet.wire.chunks import split
from fedfleet.wire.errors import FrameError
from fedfleet.wire.frames import pack, unpack
from fedfleet.wire.messages import CHUNK, MAX_BLOB, Blob, Plan, Receipt, Task, Update

P = (4 * CHUNK - 400) // 4  # an update has four parts, the last one shorter
TASK = Task(7, Blob("a" * 64, 9), Blob("b" * 64, 4 * P), Plan())


def update(device: str, number: int = 7) -> Update:
    return Update(number, device, 12, "float32", random.Random(device).randbytes(4 * P), {"loss": 0.5})


def inbox() -> Inbox:
    return Inbox("float32", P)


def lie(frame: bytes, body: bytes | None = None, **header: Any) -> bytes:
    """Return `frame` with other fields in its header, or another body."""
    known, data = unpack(frame)
    return pack({**known, **header}, data if body is None else body)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_parts_of_two_devices_in_any_order_with_repetitions(data: st.DataObject) -> None:
    wanted = {device: update(device) for device in ("a", "b")}
    parts = [(device, i, frame) for device, one in wanted.items() for i, frame in enumerate(split(one))]
    again = data.draw(st.lists(st.sampled_from(parts), max_size=3))
    box, whole, had = inbox(), {}, {"a": set(), "b": set()}  # type: ignore[var-annotated]
    for device, index, frame in data.draw(st.permutations(parts + again)):
        answer = box.take(device, frame, TASK)
        if device in whole:
            continue  # a repetition after it was complete begins another assembly
        had[device].add(index)
        missing = tuple(sorted({0, 1, 2, 3} - had[device]))
        if not missing:
            assert answer == wanted[device]
            whole[device] = answer
        else:
            assert answer == (Receipt(7, "missing", missing=missing) if index == 3 else None)
    assert whole == wanted


def test_at_most_256_missing_parts_are_asked_for_at_a_time() -> None:
    size = 300 * CHUNK
    last = pack({"kind": "part", "round": 7, "examples": 1, "codec": "float32", "index": 299,
                 "blob": asdict(Blob("c" * 64, size))}, bytes(CHUNK))  # fmt: skip
    answer = Inbox("float32", size // 4).take("a", last, TASK)
    assert isinstance(answer, Receipt)
    assert answer.missing == tuple(range(256))


def test_another_update_of_the_same_device_begins_anew() -> None:
    box = inbox()
    for frame in split(update("a"))[:3]:
        box.take("a", frame, TASK)
    other = replace(update("b"), device="a")
    *before, last = [box.take("a", frame, TASK) for frame in split(other)]
    assert before == [None, None, None]
    assert last == other


def test_wrong_bytes_are_refused_and_the_right_ones_are_still_welcome() -> None:
    box, frames = inbox(), split(update("a"))
    box.take("a", lie(frames[0], body=bytes(CHUNK)), TASK)
    for frame in frames[1:3]:
        box.take("a", frame, TASK)
    with pytest.raises(FrameError, match="other bytes than its name says"):
        box.take("a", frames[3], TASK)
    assert [box.take("a", frame, TASK) for frame in frames][3] == update("a")


@pytest.mark.parametrize("size", [4 * P - 4, 4 * P + 1, 1, MAX_BLOB])
def test_a_wrong_size_is_refused_before_anything_is_allocated(size: int) -> None:
    box, frame = inbox(), split(update("a"))[0]
    bad = lie(frame, blob=asdict(Blob("c" * 64, size)))
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=f"update has {size} bytes, the model's take {4 * P}"):
            box.take("a", bad, TASK)
        assert tracemalloc.get_traced_memory()[1] < 4 * P
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"codec": "x" * 3000}, "update is encoded as 'x{32}', the plan says float32"),
        ({"index": -1}, "chunk -1 of a blob with 4"),
        ({"index": 2**62}, "of a blob with 4"),
        ({"index": 3}, "chunk 3 has 65536 bytes"),
        ({"examples": 0}, "examples must be above 0"),
        ({"examples": 2**53}, "examples must be above 0"),
        ({"examples": True}, "part: examples must be int"),
        ({"examples": 1.0}, "part: examples must be int"),
        ({"round": "7"}, "part: round must be int"),
        ({"kind": "update"}, "expected a part, got 'update'"),
        ({"blob": {"digest": "C" * 64, "size": 8}}, "digest must be 64 hexadecimal"),
        ({"blob": {"digest": "c" * 64, "size": 2**70}}, "a blob must have"),
        ({"blob": None}, "blob must be a table"),
        ({"metrics": {f"m{i}": 0 for i in range(33)}}, "more than 32 metrics"),
        ({"metrics": {"m" * 33: 0}}, "metric's name is too long"),
        ({"metrics": {"loss": "low"}}, "metrics.loss must be float"),
    ],
)
def test_an_absurd_header_is_refused(header: dict[str, Any], reason: str) -> None:
    box, frames = inbox(), split(update("a"))
    for frame in frames[1:]:
        box.take("a", frame, TASK)
    with pytest.raises(FrameError, match=reason):
        box.take("a", lie(frames[0], **header), TASK)


def test_a_part_of_another_round_is_answered_at_once() -> None:
    answer = inbox().take("a", split(update("a", 6))[0], TASK)
    assert answer == Receipt(6, "refused", reason="round 6 is not the task's, 7")


def test_a_refusal_names_the_round_it_is_for() -> None:
    frame = split(update("a"))[0]
    assert inbox().refusal("a", frame, "bad\nthing") == Receipt(7, "refused", reason="bad thing")


@given(st.binary(max_size=200))
def test_garbage_gets_no_answer(frame: bytes) -> None:
    with pytest.raises(FrameError):
        inbox().take("a", frame, TASK)
    assert inbox().refusal("a", frame, "garbage") is None


@pytest.mark.parametrize("number", [None, "7", 7.5, True, 0, -1, 2**53])
def test_a_frame_without_a_sound_round_gets_no_answer(number: object) -> None:
    assert inbox().refusal("a", pack({"kind": "part", "round": number}), "no round") is None
