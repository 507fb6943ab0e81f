"""Chunks: any order, any repetition, wrong bytes found, nothing allocated beyond the blob."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.wire.chunks import Assembly, cut, join, open_part, split
from fedfleet.wire.errors import FrameError
from fedfleet.wire.frames import pack
from fedfleet.wire.messages import CHUNK, Blob, Update


@settings(max_examples=30)
@given(st.integers(1, 4 * CHUNK), st.integers(0, 2**32), st.integers(0, 5))
def test_a_blob_comes_together_in_any_order(size: int, seed: int, repeats: int) -> None:
    data = random.Random(seed).randbytes(size)
    chunks = list(enumerate(cut(data)))
    chunks += chunks[:repeats]
    random.Random(seed).shuffle(chunks)
    assembly = Assembly(Blob.of(data))
    for index, chunk in chunks:
        assembly.add(index, chunk)
    assert assembly.missing() == ()
    assert assembly.finish() == data


def test_missing_chunks_are_named() -> None:
    data = bytes(3 * CHUNK + 1)
    assembly = Assembly(Blob.of(data))
    assembly.add(2, data[:CHUNK])
    assert assembly.missing() == (0, 1, 3)


@pytest.mark.parametrize(("index", "length"), [(-1, CHUNK), (2, 5), (0, CHUNK - 1), (1, 6), (0, 0)])
def test_chunks_that_cannot_be_are_refused(index: int, length: int) -> None:
    assembly = Assembly(Blob("0" * 64, CHUNK + 5))
    with pytest.raises(FrameError, match="chunk"):
        assembly.add(index, bytes(length))
    assert assembly.missing() == (0, 1)


def test_wrong_bytes_are_found_and_everything_is_wanted_again() -> None:
    data = b"right" * 20_000
    assembly = Assembly(Blob.of(data))
    for index, chunk in enumerate(cut(data)):
        assembly.add(index, chunk if index else b"w" + chunk[1:])
    with pytest.raises(FrameError, match="other bytes than its name says"):
        assembly.finish()
    assert assembly.missing() == (0, 1)


def test_an_update_travels_in_parts() -> None:
    update = Update(4, "d1", 12, "float32", random.Random(1).randbytes(3 * CHUNK), {"loss": 0.25})
    parts = [open_part(frame) for frame in split(update)]
    assembly = Assembly(parts[0][0].blob)
    for part, body in reversed(parts):
        assembly.add(part.index, body)
    assert join("d1", parts[0][0], assembly.finish()) == update


def test_a_part_with_absurd_fields_is_refused() -> None:
    part, _ = open_part(split(Update(4, "d1", 12, "float32", b"1234"))[0])
    with pytest.raises(FrameError, match="examples"):
        join("d1", type(part)(4, 0, "float32", part.blob, 0), b"1234")
    with pytest.raises(FrameError, match="blob must have"):
        open_part(
            pack(
                {
                    "kind": "part",
                    "round": 1,
                    "examples": 1,
                    "codec": "x",
                    "index": 0,
                    "blob": {"digest": "0" * 64, "size": 2**50},
                }
            )
        )
