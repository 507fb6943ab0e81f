"""Messages: bounds of every field, and whom a task calls."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.wire.calling import LAP, MAX_TAGS, Ability, Needs
from fedfleet.wire.errors import FrameError
from fedfleet.wire.frames import pack
from fedfleet.wire.messages import Blob, Control, Patch, Plan, Receipt, Status, Task, Update, decode, draw, encode, seen
from fedfleet.wire.record import Mismatch, plain

TASK = Task(1, Blob("a" * 64, 10), Blob("b" * 64, 40), Plan())


@given(
    st.builds(
        Plan,
        epochs=st.integers(1, 100),
        steps=st.integers(0, 100),
        learning_rate=st.floats(1e-6, 10),
        momentum=st.floats(0, 0.99),
        second_moment=st.floats(0, 0.999),
        weight_decay=st.floats(0, 1),
        proximal=st.floats(0, 10),
        clip_norm=st.floats(0, 10),
    ),
    st.integers(1, 2**53 - 1),
    st.floats(0.001, 1),
    st.integers(0, 2**53 - 1),
)
def test_a_task_survives_the_wire(plan: Plan, round_: int, share: float, start: int) -> None:
    task = replace(TASK, plan=plan, round=round_, share=share, start=start, needs=Needs(("a", "b-3"), 9))
    assert decode(Task, encode(task)) == task


def test_a_control_and_a_patch_survive_the_wire_and_move_with_the_task() -> None:
    blob, control = Blob("c" * 64, 40), Control(Blob("d" * 64, 40), 4, (5, 9))
    task = replace(TASK, round=12, patch=Patch("e" * 64, "int8", blob), control=control)
    assert decode(Task, encode(task)) == task
    assert task.moving == (TASK.weights, blob, control.blob)
    assert task.needed == (TASK.program, TASK.weights, control.blob)
    assert TASK.moving == (TASK.weights,) and TASK.needed == (TASK.program, TASK.weights)
    assert [number for number in range(1, 12) if control.has(number)] == [4, 6, 7, 8, 10, 11]


@pytest.mark.parametrize(
    ("control", "text"),
    [
        ({"first": 0}, "first must be at least 1"),
        ({"abandoned": [*range(65)]}, "more than 64 abandoned rounds"),
        ({"abandoned": ["1"]}, r"control.abandoned\[0\] must be int, not str"),
        ({"blob": None}, "control.blob must be a table"),
    ],
)
def test_a_control_has_its_bounds(control: dict[str, object], text: str) -> None:
    good = {"blob": plain(TASK.weights), "first": 1}
    with pytest.raises(FrameError, match=text):
        decode(Task, pack({**plain(TASK), "kind": "task", "control": {**good, **control}}))


@pytest.mark.parametrize("codec", ["topk:0.1+int4+zlib", "of a newer fleet", "", "x" * 9000])
def test_a_codec_is_any_name_until_it_is_used(codec: str) -> None:
    task = replace(TASK, plan=replace(TASK.plan, codec=codec))
    assert decode(Task, encode(task)) == task


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"round": 0}, "round must be at least 1"),
        ({"round": 2**60}, "round must be at least 1"),
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
        ({"start": -1}, "start must be 0 to 2\\^53 - 1"),
        ({"start": 2**53}, "start must be 0 to 2\\^53 - 1"),
        ({"start": 0.5}, "start must be int"),
        ({"needs": {"tags": ["Camera"]}}, "needs: each of tags must be 1 to 36 characters of a-z, 0-9 and -"),
        ({"needs": {"tags": ["t"] * 17}}, "needs: there may be at most 16 tags"),
        ({"needs": {"memory_mib": -1}}, "needs: memory_mib must not be negative"),
        ({"seed": -1}, "seed"),
        ({"deadline": 0.0}, "deadline"),
        ({"plan": {"epochs": 0}}, "epochs or steps"),
        ({"plan": {"learning_rate": 0.0}}, "learning_rate"),
        ({"plan": {"momentum": 1.0}}, "momentum"),
        ({"plan": {"second_moment": 1.0}}, "second_moment"),
        ({"plan": {"nesterov": True, "second_moment": 0.9}}, "nesterov goes with SGD"),
        ({"plan": {"weight_decay": -0.1}}, "weight_decay"),
        ({"plan": {"proximal": -1.0}}, "bound"),
        ({"program": {"digest": "xyz", "size": 1}}, "64 hexadecimal"),
        ({"program": {"digest": "a" * 64, "size": 0}}, "blob must have"),
        ({"weights": {"digest": "a" * 64, "size": 2**40}}, "blob must have"),
    ],
)
def test_a_task_out_of_bounds_is_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(FrameError, match=text):
        decode(Task, pack({"kind": "task", **plain(TASK), **change}))


def test_other_kinds_and_bodies_are_refused() -> None:
    with pytest.raises(FrameError, match="expected kind task, got 'status'"):
        decode(Task, encode(Status("ready", 1)))
    with pytest.raises(FrameError, match="no body"):
        decode(Status, pack({"kind": "status", "state": "ready", "boot": 1}, b"x"))
    with pytest.raises(FrameError, match="state must be one of"):
        decode(Status, pack({"kind": "status", "state": "afloat", "boot": 1}))
    for able, text in (
        ({"tags": [""]}, "each of tags"),
        ({"arch": "x86 64"}, "arch must be"),
        ({"runtime": "é"}, "runt"),
    ):
        with pytest.raises(FrameError, match=f"status: ability: {text}"):
            decode(Status, pack({"kind": "status", "state": "ready", "boot": 1, "ability": able}))
    with pytest.raises(FrameError, match="outcome must be one of"):
        decode(Receipt, pack({"kind": "receipt", "round": 1, "outcome": "lost"}))


def test_an_update_is_bounded() -> None:
    good = Update(1, "d", 5, "float32", b"1234")
    for change in ({"examples": 0}, {"delta": b""}, {"round": 0}, {"metrics": {str(i): 0.0 for i in range(33)}}):
        with pytest.raises(Mismatch):
            replace(good, **change)  # type: ignore[arg-type]


def test_reasons_become_one_printable_line() -> None:
    assert seen("a\nb\tc \x00 é") == "a b c ? ?"
    assert len(seen("x" * 999)) == 200
    assert Receipt(1, "refused", reason=seen("tab\t" * 99)).reason.startswith("tab tab")


def test_each_device_decides_for_itself_and_about_a_share_is_called() -> None:
    task = replace(TASK, share=0.3)
    called = [task.calls(f"d{i}") for i in range(2000)]
    assert called == [task.calls(f"d{i}") for i in range(2000)]
    assert 0.27 < sum(called) / len(called) < 0.33
    assert called == [replace(task, round=2).calls(f"d{i}") for i in range(2000)]
    assert called != [replace(task, start=task.next_start).calls(f"d{i}") for i in range(2000)]
    assert all(replace(TASK, start=LAP // 3).calls(f"d{i}") for i in range(50))


def test_who_lacks_what_a_task_needs_is_not_called() -> None:
    task = replace(TASK, needs=Needs(("camera",), 512))
    assert task.calls("d0")
    assert task.calls("d0", Ability(("line-3", "camera"), 512))
    assert not task.calls("d0", Ability(("camera",), 511))
    assert not task.calls("d0", Ability(("cameras",), 4096))
    assert not task.calls("d0", Ability())
    assert TASK.calls("d0", Ability())


def test_a_task_and_a_status_of_an_older_peer_ask_for_nothing_and_can_nothing() -> None:
    task = {key: value for key, value in plain(TASK).items() if key not in ("start", "needs")}
    assert decode(Task, pack({"kind": "task", **task})) == TASK
    status = decode(Status, pack({"kind": "status", "state": "ready", "boot": 1}))
    assert status.ability == Ability()


def test_the_largest_ability_is_bounded_in_bytes() -> None:
    tags = tuple(f"{i:036}" for i in range(MAX_TAGS))
    able = Ability(tags, 2**43, "x" * 36, "y" * 36)
    frame = encode(Status("paused", 2**53 - 1, 2**53 - 1, "r" * 200, able))
    assert decode(Status, frame).ability == able
    assert len(frame) < 1200


def test_equal_frames_are_equal_messages_and_a_bad_one_is_bad_each_time() -> None:
    first, second = encode(TASK), encode(replace(TASK, round=2))
    assert [decode(Task, frame) for frame in (first, second, bytes(bytearray(first)))] == [
        TASK, replace(TASK, round=2), TASK,
    ]  # fmt: skip
    for _ in range(2):
        with pytest.raises(FrameError, match="expected kind status, got 'task'"):
            decode(Status, first)


def test_the_draw_is_the_same_on_all_sides() -> None:
    assert draw("call", 1, "d0") == 0.6099523757451003
