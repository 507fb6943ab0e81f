"""Frames: round trips, golden bytes as docs/wire.md prints them, and every way to lie about a length."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.wire import frames
from fedfleet.wire.calling import Ability, Needs
from fedfleet.wire.chunks import Want, join, manifest, open_manifest, open_offer, open_part, split
from fedfleet.wire.enrolment import Enrol, Enrolled, open_enrol, open_enrolled, pack_enrol, pack_enrolled
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Blob, Plan, Receipt, Status, Task, Update, decode, encode
from fedfleet.wire.release import Release

DOC = Path(__file__).parents[2] / "docs" / "wire.md"
GOLDEN_NEEDS = Needs(("camera",), 512)
GOLDEN_TASK = Task(
    3, Blob("0" * 64, 1024), Blob("f" * 64, 4096), Plan(), 0.5, 7, 60.0, start=3 * 2**31, needs=GOLDEN_NEEDS
)
GOLDEN_ABILITY = Ability(("line-3", "camera"), 923, "aarch64", "litert")
GOLDEN_STATUS = Status("ready", 4, ability=GOLDEN_ABILITY, version="0.2.0", release="0.2.0 good")
GOLDEN_RELEASE = Release("0.2.0", Blob("d" * 64, 606), Blob("c" * 64, 3119), ("line-3",), 0.25)
GOLDEN_UPDATE = Update(3, "d1", 10, "float32", b"\x00\x00\x80\x3f\x00\x00\x00\xc0", {"loss": 0.5})
GOLDEN_BLOB = Blob("e" * 64, 65_540)
GOLDEN_ENROL = Enrol("pump-1", "line-3", b"-----BEGIN CERTIFICATE REQUEST-----\n")
GOLDEN_ENROLLED = Enrolled("pending", "an operator must accept it")
GOLDEN = {
    "task": encode(GOLDEN_TASK),
    "manifest": manifest(GOLDEN_BLOB, ["ab" * 16, "cd" * 16]),
    "offer": split(GOLDEN_UPDATE)[0],
    "part": split(GOLDEN_UPDATE)[1],
    "want": encode(Want(("ab" * 16,))),
    "receipt": encode(Receipt(3, "missing", (0, 2))),
    "status": encode(GOLDEN_STATUS),
    "enrol": pack_enrol(GOLDEN_ENROL),
    "enrolled": pack_enrolled(GOLDEN_ENROLLED),
    "release": encode(GOLDEN_RELEASE),
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=5), st.binary(max_size=500))
def test_round_trip(header: dict[str, object], body: bytes) -> None:
    assert frames.unpack(frames.pack(header, body)) == (header, body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_frame_error(data: bytes) -> None:
    try:
        frames.unpack(data)
    except FrameError:
        return
    assert data.startswith(frames.MAGIC)


@given(st.data())
def test_every_truncation_of_a_header_is_refused(data: st.DataObject) -> None:
    whole = GOLDEN["task"]
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FrameError):
        decode(Task, whole[:cut])


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=6))
def test_no_header_of_any_shape_gets_past_the_types(header: dict[str, object]) -> None:
    try:
        frame = frames.pack({**header, "kind": "task"})
        decode(Task, frame)
    except FrameError:
        return
    raise AssertionError(f"{header} is not a task")


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"", "truncated"),
        (b"FLT1\x00\x00", "truncated"),
        (b"XXXX" + GOLDEN["task"][4:], "magic"),
        (b"FLT2" + GOLDEN["task"][4:], "not a fedfleet frame of this version"),
        (b"FLT1\xff\xff\xff\xff" + b"{}", "lies"),
        (b"FLT1\x03\x00\x00\x00{}", "lies"),
        (b"FLT1\x02\x00\x00\x00[]", "not a JSON object"),
        (b"FLT1\x03\x00\x00\x00NaN", "NaN is not JSON"),
        (b'FLT1\x0d\x00\x00\x00{"a":1,"a":2}', "a key stands twice"),
        (b"FLT1\x02\x00\x00\x00\xff\xfe", "not JSON"),
        (b"FLT1\x02\x00\x00\x00{}" + bytes(frames.MAX_BODY + 1), "body of"),
        (bytes(frames.MAX_BODY + frames.MAX_HEADER + 9), "oversized"),
        (b"FLT1" + (9).to_bytes(4, "little") + b"[[[[[]]]]", "not JSON"),
        (b"FLT1" + (17).to_bytes(4, "little") + b'{"a":[[[[[]]]]] }'[:17], "nested deeper"),
        (b"FLT1" + (16384).to_bytes(4, "little") + b"[" * 16384, "not JSON"),
    ],
)
def test_what_is_no_frame_says_why(frame: bytes, text: str) -> None:
    with pytest.raises(FrameError, match=text):
        frames.unpack(frame)


def test_what_unpack_would_refuse_is_not_packed() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        frames.pack({"a": "x" * frames.MAX_HEADER})
    with pytest.raises(FrameError, match="over the limit"):
        frames.pack({}, bytes(frames.MAX_BODY + 1))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_frames_are_those_of_the_document(name: str) -> None:
    found = re.search(rf"<!-- golden {name} -->\s*```\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert found is not None, f"docs/wire.md has no golden frame {name}"
    assert bytes.fromhex(found[1]) == GOLDEN[name]


def test_golden_frames_decode() -> None:
    assert decode(Task, GOLDEN["task"]) == GOLDEN_TASK
    assert decode(Receipt, GOLDEN["receipt"]) == Receipt(3, "missing", (0, 2))
    assert decode(Status, GOLDEN["status"]) == GOLDEN_STATUS
    assert decode(Release, GOLDEN["release"]) == GOLDEN_RELEASE
    assert decode(Want, GOLDEN["want"]) == Want(("ab" * 16,))
    assert open_enrol(GOLDEN["enrol"]) == GOLDEN_ENROL
    assert open_enrolled(GOLDEN["enrolled"]) == GOLDEN_ENROLLED
    assert open_manifest(GOLDEN_BLOB, GOLDEN["manifest"]).hex() == "ab" * 16 + "cd" * 16
    offered = open_offer(GOLDEN["offer"])
    part, body = open_part(GOLDEN["part"])
    assert (part.round, part.digest, part.index) == (3, offered.blob.digest, 0)
    assert join("d1", offered, body) == GOLDEN_UPDATE


def test_a_status_of_before_there_were_releases_still_decodes() -> None:
    header = b'{"ability":{"arch":"","memory_mib":0,"runtime":"","tags":[]},"boot":4,"declined":0,"kind":"status","reason":"","state":"ready"}'
    old = frames.MAGIC + len(header).to_bytes(4, "little") + header
    assert decode(Status, old) == Status("ready", 4)
