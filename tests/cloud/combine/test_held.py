"""What updates hold before they are decoded: their largest change, and what is left to `grow`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cloud.combine.held import LOOKS, Held, look, values
from fedfleet.wire.codecs import grow, shrink
from fedfleet.wire.errors import FrameError

CODECS = sorted(LOOKS)
deltas = st.lists(st.floats(-(2.0**33), 2.0**33, width=32), min_size=1, max_size=600)


@pytest.mark.parametrize("codec", CODECS)
@given(deltas)
def test_the_peak_is_that_of_what_grow_returns(codec: str, found: list[float]) -> None:
    delta = np.array(found, np.float32) * np.float32(0.25)
    data = shrink(codec, delta, 1)
    looked = look(codec, data, delta.size)
    assert looked is not None
    assert looked.peak == float(np.abs(grow(codec, data, delta.size).astype(np.float64)).max())


@pytest.mark.parametrize("codec", CODECS)
@given(st.binary(max_size=80), st.integers(1, 20))
def test_whatever_grow_refuses_is_left_to_it(codec: str, data: bytes, count: int) -> None:
    looked = look(codec, data, count)
    try:
        delta = grow(codec, data, count)
    except FrameError:
        assert looked is None
    else:
        assert looked is not None
        assert looked.peak == float(np.abs(delta.astype(np.float64)).max())


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00, 0xFFFF])
def test_no_float16_that_is_no_number_is_held(bits: int) -> None:
    assert look("float16", np.array([0, bits], "<u2").tobytes(), 2) is None
    assert look("float16", np.array([0, 0xFBFF], "<u2").tobytes(), 2) is not None


@pytest.mark.parametrize("place", [0, 299])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_float32_that_is_no_number_is_held(place: int, value: float) -> None:
    delta = np.zeros(300, "<f4")
    delta[place] = value
    assert look("float32", delta.tobytes(), 300) is None


def test_the_lowest_code_counts_though_no_device_sends_it() -> None:
    data = bytes([3, 30]) + np.array([-128, 127], np.int8).tobytes()
    looked = look("int8", data, 2)
    assert looked is not None and looked.peak == 3 * 128
    packed = look("int4", bytes([3, 30, 0x78]), 2)
    assert packed is not None and packed.peak == 3 * 8


@pytest.mark.parametrize("codec", ["topk:0.1+int8", "float32+zlib", "topk:0.5+int4"])
def test_what_has_to_be_undone_first_is_left_to_grow(codec: str) -> None:
    assert look(codec, shrink(codec, np.ones(300, np.float32), 1), 300) is None


def test_what_can_still_be_written_to_is_copied() -> None:
    delta = np.ones(3, np.float32)
    held = values(delta)
    delta[:] = 7
    assert held.arrays[0].tolist() == [1, 1, 1]
    delta.flags.writeable = False
    assert values(delta).arrays[0] is delta


def test_updates_that_are_read_alike_are_folded_together() -> None:
    narrow, wide = (Held("floats", (np.zeros(2, kind),)) for kind in (np.float32, np.float64))
    assert narrow.like != wide.like
    assert narrow.like == Held("floats", (np.ones(2, np.float32),)).like
