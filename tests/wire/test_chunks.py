"""Chunks: any order, any repetition, wrong bytes found, nothing allocated beyond the blob."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.wire.chunks import (
    Assembly,
    Want,
    chunk_name,
    cut,
    join,
    length,
    manifest,
    only_name,
    open_either,
    open_manifest,
    open_offer,
    open_part,
    split,
)
from fedfleet.wire.errors import FrameError
from fedfleet.wire.frames import pack, unpack
from fedfleet.wire.messages import CHUNK, MAX_BLOB, Blob, Update, decode, encode


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


def test_an_update_travels_as_an_offer_and_parts() -> None:
    update = Update(4, "d1", 12, "float32", random.Random(1).randbytes(3 * CHUNK), {"loss": 0.25})
    first, *rest = split(update)
    offered = open_offer(first)
    assembly = Assembly(offered.blob)
    for part, body in reversed([open_part(frame) for frame in rest]):
        assert (part.round, part.digest) == (4, offered.blob.digest)
        assembly.add(part.index, body)
    joined = join("d1", offered, assembly.finish())
    assert joined == update
    assert joined.blob == offered.blob == Blob.of(update.delta)


def test_offers_and_parts_are_told_apart() -> None:
    first, *rest = split(Update(4, "d1", 12, "float32", random.Random(1).randbytes(2 * CHUNK), {"loss": 0.25}))
    assert open_either(first) == open_offer(first)
    assert [open_either(frame) for frame in rest] == [open_part(frame) for frame in rest]
    with pytest.raises(FrameError, match="expected kind offer, got 'want'"):
        open_either(pack({"kind": "want"}))
    with pytest.raises(FrameError, match="an offer has no body"):
        open_either(first + b"x")


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"examples": 0}, "examples must be above 0"),
        ({"blob": {"digest": "0" * 64, "size": 2**50}}, "blob must have"),
        ({"blob": {"digest": "x", "size": 5}}, "digest must be"),
        ({"metrics": {"m" * 33: 1}}, "name is too long"),
        ({"round": 0}, "round must be at least 1"),
        ({"kind": "part"}, "expected kind offer, got 'part'"),
    ],
)
def test_an_offer_with_absurd_fields_is_refused(lie: dict[str, object], reason: str) -> None:
    header, _ = unpack(split(Update(4, "d1", 12, "float32", b"1234"))[0])
    with pytest.raises(FrameError, match=reason):
        open_offer(pack({**header, **lie}))
    with pytest.raises(FrameError, match="no body"):
        open_offer(pack(header, b"x"))


@settings(max_examples=20)
@given(st.integers(1, 5 * CHUNK), st.integers(0, 99))
def test_a_manifest_names_the_chunks_of_its_blob(size: int, seed: int) -> None:
    data = random.Random(seed).randbytes(size)
    blob, names = Blob.of(data), [chunk_name(chunk) for chunk in cut(data)]
    assert open_manifest(blob, manifest(blob, names)).hex() == "".join(names)
    assert [length(blob, i) for i in range(blob.chunks)] == [len(chunk) for chunk in cut(data)]
    if blob.chunks == 1:
        assert names == [only_name(blob)]
    for lie in (manifest(blob, names[1:]), manifest(blob, [*names, names[0]]), manifest(Blob.of(b"x"), names), b""):
        with pytest.raises(FrameError):
            open_manifest(blob, lie)


def test_the_manifest_of_the_largest_blob_fits_into_a_packet_of_100_000_bytes() -> None:
    blob = Blob("0" * 64, MAX_BLOB)
    assert len(manifest(blob, ["ab" * 16] * blob.chunks)) < 66_000


@pytest.mark.parametrize("names", [(), ("x",), ("a" * 31,), ("a" * 33,), ("a" * 32,) * 65, ("A" * 32,)])
def test_nobody_may_want_what_there_cannot_be(names: tuple[str, ...]) -> None:
    with pytest.raises(FrameError, match="want"):
        decode(Want, pack({"kind": "want", "names": list(names)}))
    assert decode(Want, encode(Want(("a" * 32, "b" * 64)))) == Want(("a" * 32, "b" * 64))
