"""Differences travel and come back; what does not fit, or is no number, is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.wire.codecs import CODECS, codec, grow
from fedfleet.wire.errors import FrameError, SettingsError

deltas = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)


@given(deltas, st.sampled_from(sorted(CODECS)))
def test_float32_comes_back_to_the_bit_and_every_codec_in_its_size(values: list[float], name: str) -> None:
    delta = np.array(values, np.float32)
    data = codec(name).shrink(delta)
    assert len(data) == codec(name).size(len(values))
    back = grow(name, data, len(values))
    assert (back.dtype.name, back.shape) == ("float32", delta.shape)
    if name == "float32":
        assert back.tobytes() == delta.tobytes()


def test_the_bytes_are_little_endian_whatever_the_machine() -> None:
    delta = np.array([1.0, -2.0], ">f4").astype(np.float32)
    assert codec("float32").shrink(delta) == bytes.fromhex("0000803f000000c0")
    assert codec("float32").shrink(np.array([1.0], np.float64).astype(np.float32)) == bytes.fromhex("0000803f")


@pytest.mark.parametrize("length", [0, 1, 8, 11, 13, 16])
def test_a_wrong_length_is_named(length: int) -> None:
    with pytest.raises(FrameError, match=f"update has {length} bytes, but 3 parameters take 12"):
        grow("float32", bytes(length), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    data = np.array([0, 1, value], "<f4").tobytes()
    with pytest.raises(FrameError, match="NaN or infinity in it; training diverged: lower the learning rate"):
        grow("float32", data, 3)


def test_the_known_codecs_are_listed_for_an_unknown_name() -> None:
    with pytest.raises(SettingsError, match=r"unknown codec 'x{32}'; known: float32"):
        codec("x" * 1000)
