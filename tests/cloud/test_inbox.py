"""Updates as they are offered and asked for: any order, any repetition, in waves, and whatever a device may say."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud import inbox as rules
from fedfleet.cloud.inbox import Inbox
from fedfleet.wire.chunks import Part, offer, open_part, pack_offer, split
from fedfleet.wire.errors import FrameError
from fedfleet.wire.frames import pack
from fedfleet.wire.messages import CHUNK, MAX_BLOB, Blob, Receipt, Update

P = (4 * CHUNK - 400) // 4  # an update has four parts, the last one shorter


class Clock:
    """Seconds, moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def update(device: str, number: int = 7) -> Update:
    return Update(number, device, 12, "float32", random.Random(device).randbytes(4 * P), {"loss": 0.5})


def parts(one: Update) -> list[tuple[Part, bytes]]:
    return [open_part(frame) for frame in split(one)[1:]]


def inbox(clock: Clock | None = None, parameters: int = P) -> Inbox:
    return Inbox("float32", parameters, clock or Clock())


def asked(box: Inbox) -> dict[str, tuple[int, ...]]:
    return {device: receipt.missing for device, receipt in box.requests()}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_parts_of_two_devices_in_any_order_with_repetitions(data: st.DataObject) -> None:
    wanted = {device: update(device) for device in ("a", "b")}
    every = [(device, *one) for device, known in wanted.items() for one in parts(known)]
    again = data.draw(st.lists(st.sampled_from(every), max_size=3))
    box, whole = inbox(), {}
    for device, known in wanted.items():
        box.offer(device, offer(known))
    assert asked(box) == {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3)}
    for device, part, body in data.draw(st.permutations(every + again)):
        found = box.part(device, part, body)
        if found is not None:
            assert device not in whole
            whole[device] = found
    assert whole == wanted
    assert asked(box) == {}


def test_a_large_update_is_asked_for_a_few_parts_at_a_time() -> None:
    size = 300 * CHUNK
    box = inbox(parameters=size // 4)
    blob = Blob("c" * 64, size)
    box.offer("a", replace(offer(update("a")), blob=blob))
    assert asked(box) == {"a": tuple(range(8))}
    assert asked(box) == {}
    for index in range(4):
        box.part("a", Part(7, blob.digest, index), bytes(CHUNK))
    assert asked(box) == {"a": (8, 9, 10, 11)}


def test_a_cohort_is_admitted_in_waves() -> None:
    box, devices = inbox(), [f"d{i}" for i in range(2000)]
    known = {device: update(device) for device in devices}
    for device in devices:
        box.offer(device, offer(known[device]))
    counted, most = set(), 0
    while len(counted) < len(devices):
        wave = asked(box)
        most = max(most, sum(map(len, wave.values())))
        assert wave
        for device, indices in wave.items():
            for index in indices:
                if box.part(device, *parts(known[device])[index]):
                    counted.add(device)
    assert most == rules.AHEAD


def test_no_more_updates_are_open_than_there_is_room_for() -> None:
    size = rules.ROOM // 2
    box = inbox(parameters=size // 4)
    for name in "abc":
        box.offer(name, replace(offer(update(name)), blob=Blob(name * 64, size)))
    assert set(asked(box)) == {"a", "b"}
    box.drop("a")
    assert set(asked(box)) == {"c"}
    alone = inbox(parameters=MAX_BLOB // 4)
    alone.offer("a", replace(offer(update("a")), blob=Blob("a" * 64, MAX_BLOB)))
    assert set(asked(alone)) == {"a"}


def test_who_falls_silent_makes_room_and_goes_on_when_it_is_back() -> None:
    clock = Clock()
    box = inbox(clock)
    names = [f"d{i}" for i in range(9)]
    for name in names:
        box.offer(name, offer(update(name)))
    assert set(asked(box)) == set(names[:8])
    for name in names[1:8]:
        assert [box.part(name, *one) for one in parts(update(name))][3] == update(name)
    assert asked(box) == {"d8": (0, 1, 2, 3)}
    clock.now += rules.SILENCE + 1
    assert asked(box) == {"d0": (0, 1, 2, 3), "d8": (0, 1, 2, 3)}  # nobody waits: they are asked again
    box.part("d0", *parts(update("d0"))[0])
    box.offer("d0", offer(update("d0")))
    assert asked(box) == {"d0": (1, 2, 3)}


def test_the_silent_lose_their_place_to_those_who_wait() -> None:
    clock = Clock()
    size = rules.ROOM
    box = inbox(clock, size // 4)
    for name in "ab":
        box.offer(name, replace(offer(update(name)), blob=Blob(name * 64, size)))
    assert set(asked(box)) == {"a"}
    clock.now += rules.SILENCE + 1
    assert set(asked(box)) == {"b"}


def test_another_update_of_the_same_device_begins_anew() -> None:
    box = inbox()
    box.offer("a", offer(update("a")))
    asked(box)
    for one in parts(update("a"))[:3]:
        box.part("a", *one)
    other = replace(update("b"), device="a")
    box.offer("a", offer(other))
    assert asked(box) == {"a": (0, 1, 2, 3)}
    assert [box.part("a", *one) for one in parts(update("a"))] == [None] * 4
    assert [box.part("a", *one) for one in parts(other)] == [None, None, None, other]


def test_wrong_bytes_are_refused_and_the_right_ones_are_still_welcome() -> None:
    box, frames = inbox(), parts(update("a"))
    box.offer("a", offer(update("a")))
    asked(box)
    box.part("a", frames[0][0], bytes(CHUNK))
    for one in frames[1:3]:
        box.part("a", *one)
    with pytest.raises(FrameError, match="other bytes than its name says"):
        box.part("a", *frames[3])
    box.offer("a", offer(update("a")))
    assert asked(box) == {"a": (0, 1, 2, 3)}
    assert [box.part("a", *one) for one in frames][3] == update("a")


@pytest.mark.parametrize("size", [4 * P - 4, 4 * P + 1, 1, MAX_BLOB])
def test_a_wrong_size_is_refused_before_anything_is_allocated(size: int) -> None:
    box, bad = inbox(), replace(offer(update("a")), blob=Blob("c" * 64, size))
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=f"update has {size} bytes, the model's take {4 * P}"):
            box.offer("a", bad)
        assert tracemalloc.get_traced_memory()[1] < 4 * P
    finally:
        tracemalloc.stop()


def test_another_codec_than_the_plans_is_refused() -> None:
    with pytest.raises(FrameError, match="update is encoded as 'x{32}', the plan says float32"):
        inbox().offer("a", replace(offer(update("a")), codec="x" * 3000))


@pytest.mark.parametrize(
    ("index", "size", "reason"),
    [
        (-1, CHUNK, "chunk -1 of a blob with 4"),
        (2**62, CHUNK, "of a blob with 4"),
        (3, CHUNK, "chunk 3 has 65536 bytes"),
        (0, 5, "chunk 0 has 5 bytes"),
    ],
)
def test_a_part_that_cannot_be_is_refused(index: int, size: int, reason: str) -> None:
    box, one = inbox(), update("a")
    box.offer("a", offer(one))
    asked(box)
    with pytest.raises(FrameError, match=reason):
        box.part("a", Part(7, offer(one).blob.digest, index), bytes(size))


@given(st.text("abcdef0123456789", min_size=64, max_size=64), st.integers(1, 2**53 - 1), st.integers())
def test_parts_of_what_was_not_offered_are_nothing(digest: str, number: int, index: int) -> None:
    box = inbox()
    box.offer("a", offer(update("a")))
    asked(box)
    assert box.part("a", Part(number, digest, index), b"x") is None
    assert box.part("stranger", Part(7, offer(update("a")).blob.digest, 0), b"x") is None


def test_a_refusal_names_the_round_it_is_for() -> None:
    box, frame = inbox(), pack_offer(offer(update("a")))
    box.offer("a", offer(update("a")))
    assert box.refusal("a", frame, "bad\nthing") == Receipt(7, "refused", reason="bad thing")
    assert asked(box) == {}


@given(st.binary(max_size=200))
def test_garbage_gets_no_answer(frame: bytes) -> None:
    assert inbox().refusal("a", frame, "garbage") is None


@pytest.mark.parametrize("number", [None, "7", 7.5, True, 0, -1, 2**53])
def test_a_frame_without_a_sound_round_gets_no_answer(number: object) -> None:
    known: dict[str, Any] = asdict(offer(update("a")))
    assert inbox().refusal("a", pack({**known, "kind": "offer", "round": number}), "no round") is None
