"""What a device remembers: whole old or whole new, and damage is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fedfleet.edge.state import State
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob


def test_rounds_and_starts_are_remembered(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert (state.round, state.boot) == (0, 0)
    state.begin()
    state.finish(12)
    again = State(tmp_path)
    assert (again.round, again.boot) == (12, 1)
    again.begin()
    assert (State(tmp_path).round, State(tmp_path).boot) == (12, 2)


@pytest.mark.parametrize(
    "content", [b"", b'{"round": 12, "bo', b"[1, 2]", b'{"round": "12"}', b"\xff\xfe\x00", b"null"]
)
def test_a_torn_memory_is_named_with_its_path(tmp_path: Path, content: bytes) -> None:
    State(tmp_path).finish(3)
    (tmp_path / "memory.json").write_bytes(content)
    with pytest.raises(
        StoreError, match=rf"{tmp_path}/memory.json is damaged .*; remove it, the device then starts as"
    ):
        State(tmp_path)
    assert (tmp_path / "memory.json").read_bytes() == content
    (tmp_path / "memory.json").unlink()
    assert State(tmp_path).round == 0


def test_what_a_power_cut_left_half_written_is_not_read(tmp_path: Path) -> None:
    State(tmp_path).finish(3)
    (tmp_path / ".memory.json.tmp").write_bytes(b'{"round": 4, "b')
    state = State(tmp_path)
    assert state.round == 3
    state.finish(5)
    assert State(tmp_path).round == 5


def test_a_write_that_fails_leaves_the_old_memory_on_the_disk(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.finish(3)
    (tmp_path / ".memory.json.tmp").mkdir()  # in the way of the temporary file
    with pytest.raises(StoreError, match=r"memory.json cannot be written: Is a directory"):
        state.finish(4)
    assert (state.round, State(tmp_path).round) == (4, 3)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/state cannot be made: Not a directory; give the agent a folder"):
        State(tmp_path / "file" / "state")


def test_blobs_are_kept_verified_and_forgotten(tmp_path: Path) -> None:
    state = State(tmp_path)
    first, second = (random.Random(i).randbytes(100) for i in (1, 2))
    for data in (first, second):
        assert state.blob(Blob.of(data)) is None
        (state.blobs / Blob.of(data).digest).write_bytes(data)
    path = state.blob(Blob.of(first))
    assert path is not None
    assert path.read_bytes() == first
    assert state.verify(Blob.of(first))
    state.forget_blobs([Blob.of(second)])
    assert state.blob(Blob.of(first)) is None
    assert not state.verify(Blob.of(first))
    assert state.blob(Blob.of(second)) is not None


def test_a_rotten_blob_is_removed_to_be_fetched_anew(tmp_path: Path) -> None:
    state, blob = State(tmp_path), Blob.of(b"program")
    (tmp_path / "blobs" / blob.digest).write_bytes(b"progran")
    assert state.blob(blob) is not None  # the size alone is right
    assert not state.verify(blob)
    assert state.blob(blob) is None
    (tmp_path / "blobs" / blob.digest).write_bytes(b"prog")
    assert state.blob(blob) is None


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    state = State(tmp_path)
    (tmp_path / "spool" / "4.update").mkdir()
    with pytest.raises(StoreError, match=r"spool/4.update cannot be removed: Is a directory"):
        state.spool.clear()
