"""Differences travel and come back: exactly where that is promised, unbiased and near where not; all else is refused."""

from __future__ import annotations

import hashlib
import re
import tracemalloc
import zlib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.sums import Mean
from fedfleet.wire.codecs import Weights, codec, grow, lengths, shrink, spoken
from fedfleet.wire.codecs.blocks import BLOCK
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.examples import stream

DOC = Path(__file__).parents[2] / "docs" / "wire.md"
VALUES = ("float32", "float16", "int8", "int4")
NAMES = [*VALUES, "float32+zlib", "int4+zlib", "topk:0.3+float32", "topk:0.05+int8", "topk:0.5+int4+zlib"]
MOST = {"int8": 127, "int4": 7}
floats = st.floats(-(2.0**31), 2.0**31, width=32)
deltas = st.lists(floats, min_size=1, max_size=50).map(lambda values: np.array(values, np.float32))


def learned(count: int, seed: int = 0) -> Weights:
    """Like a difference after training: most of it small, little of it large, the same everywhere."""
    raw = stream("learned", seed).random_raw(count).astype(np.float64) / 2.0**63 - 1
    return (raw * raw * raw * 0.1).astype(np.float32)


def steps(name: str, data: bytes, count: int) -> list[float]:
    """The step of every value of an int codec, by the document."""
    pairs = [(data[2 * i], data[2 * i + 1]) for i in range(-(-count // BLOCK))]
    return [m * 2.0 ** (s - 30) for m, s in pairs for _ in range(BLOCK)][:count]


@given(deltas, st.sampled_from(NAMES), st.integers(0, 2**64 - 1))
def test_every_codec_keeps_to_its_lengths_and_comes_back_in_shape(delta: Weights, name: str, seed: int) -> None:
    data = shrink(name, delta, seed)
    assert len(data) in lengths(name, delta.size)
    assert (len(lengths(name, delta.size)) == 1) is ("zlib" not in name)
    back = grow(name, data, delta.size)
    assert (back.dtype.name, back.shape) == ("float32", delta.shape)
    assert shrink(name, delta, seed) == data


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(["", "+zlib"]))
def test_float32_comes_back_to_the_bit(values: list[float], behind: str) -> None:
    delta = np.array(values, np.float32)
    data = shrink("float32" + behind, delta, 1)
    assert grow("float32" + behind, data, delta.size).tobytes() == delta.tobytes()


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1))
def test_float16_returns_what_it_can_hold(values: list[float]) -> None:
    delta = np.array(values, np.float32)
    assert grow("float16", shrink("float16", delta, 1), delta.size).tobytes() == delta.tobytes()


@given(deltas)
def test_float16_is_the_nearest_and_never_infinite(delta: Weights) -> None:
    back = grow("float16", shrink("float16", delta, 1), delta.size)
    held = np.clip(delta, -65504, 65504)
    assert (np.abs(back - held) <= np.maximum(np.abs(held) * 2.0**-11, 2.0**-25)).all()


@given(deltas, st.sampled_from(sorted(MOST)), st.integers(0, 2**64 - 1))
def test_an_integer_is_one_of_the_two_next_to_the_value(delta: Weights, name: str, seed: int) -> None:
    data = shrink(name, delta, seed)
    back = grow(name, data, delta.size)
    peak = float(np.abs(delta).max())
    for value, near, step in zip(delta.tolist(), back.tolist(), steps(name, data, delta.size)):
        assert abs(value - near) < step or value == near
        assert step <= max(peak / MOST[name] * (1 + 1 / 128), 2.0**-30)  # none larger than it need be
        assert near == 0 or (near / step).is_integer()
        assert abs(near) <= MOST[name] * step


@given(st.sampled_from(sorted(MOST)), st.integers(128, 255), st.integers(0, 50), st.data())
def test_whole_multiples_of_a_step_come_back_to_the_bit(name: str, m: int, s: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(-MOST[name], MOST[name]), min_size=1, max_size=40))
    delta = np.array([MOST[name], *codes], np.float32) * np.float32(m * 2.0 ** (s - 30))
    for seed in range(3):
        assert grow(name, shrink(name, delta, seed), delta.size).tolist() == delta.tolist()


@pytest.mark.parametrize("name", sorted(MOST))
def test_rounding_is_unbiased(name: str) -> None:
    """The mean of n draws of one step each is off by more than 5 / (2 sqrt n) steps once in some millions."""
    delta, times = learned(600), 400
    data = shrink(name, delta, 0)
    mean = sum(grow(name, shrink(name, delta, seed), delta.size).astype(np.float64) for seed in range(times)) / times
    off = (mean - delta) / np.array(steps(name, data, delta.size))
    assert np.abs(off).max() < 2.5 / times**0.5
    assert abs(off.mean()) < 2.5 / (times * delta.size) ** 0.5
    nearest = np.round(delta / np.array(steps(name, data, delta.size)))
    assert np.abs(nearest * steps(name, data, delta.size) - delta).max() > 0  # there was something to round


@given(st.lists(floats, min_size=1, max_size=300, unique_by=abs), st.integers(1, 9999))
def test_topk_keeps_the_largest_and_no_other(values: list[float], share: int) -> None:
    delta = np.array(values, np.float32)
    name = f"topk:0.{share:04}+float32"
    kept = -(-len(values) * share // 10_000)
    expected = sorted(range(len(values)), key=lambda i: -abs(values[i]))[:kept]
    back = grow(name, shrink(name, delta, 1), delta.size)
    assert back.tolist() == [value if i in expected else 0.0 for i, value in enumerate(delta.tolist())]


def test_of_equal_changes_the_first_are_kept() -> None:
    delta = np.array([1, -2, 1, 2, -1, 1, 1, 0], np.float32)
    assert grow("topk:0.5+float32", shrink("topk:0.5+float32", delta, 1), 8).tolist() == [1, -2, 1, 2, 0, 0, 0, 0]
    assert grow("topk:0.5+int4", shrink("topk:0.5+int4", np.zeros(8, np.float32), 1), 8).tolist() == [0.0] * 8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["int8", "int4", "topk:0.3+int4+zlib"]), deltas), min_size=1, max_size=6))
def test_the_sum_of_integers_is_exact(updates: list[tuple[str, Weights]]) -> None:
    mean, exact = Mean.empty(50), [Fraction(0)] * 50
    for examples, (name, delta) in enumerate(updates, 1):
        small = np.zeros(50, np.float32)
        small[: delta.size] = delta / 2.0**8
        back = grow(name, shrink(name, small, examples), 50)
        mean.add(back, examples)
        exact = [total + Fraction(value) * examples for total, value in zip(exact, back.tolist())]
    assert [Fraction(int(total), 2**30) for total in mean.total] == exact


@pytest.mark.parametrize("name", [n for n in NAMES if "zlib" not in n])
def test_long_vectors_are_coded_in_slabs_and_take_little_memory(name: str) -> None:
    delta = learned(2**20 + 77)
    tracemalloc.start()
    data = shrink(name, delta, 1)
    assert tracemalloc.get_traced_memory()[1] < 3 * delta.nbytes + 4 * 2**20
    tracemalloc.stop()
    back = grow(name, data, delta.size)
    inner = name.rpartition("+")[2]
    if inner in MOST:
        kept = np.flatnonzero(back)
        assert kept.size
        assert np.abs(back - delta)[kept].max() <= 0.1 / MOST[inner] * 1.01


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("int8", "5e3c819b191ae846"),
        ("int4", "a43b686792af2ad8"),
        ("topk:0.1+int4", "614bd8c6d3c0d14d"),
        ("float16", "069ef2c7a04ffa1e"),
    ],
)
def test_the_same_bits_with_every_numpy_on_every_platform(name: str, digest: str) -> None:
    delta = learned(5000)
    delta[100:200] = delta[100]  # ties
    assert hashlib.sha256(shrink(name, delta, 7)).hexdigest()[:16] == digest
    other = shrink(name, delta, 8)
    assert (other == shrink(name, delta, 7)) is (name == "float16")


def golden() -> list[tuple[str, bytes, list[float]]]:
    table = DOC.read_text().partition("<!-- golden codecs -->")[2]
    rows = re.findall(r"^\| `([^`]+)` \| `([0-9a-f ]+)` \| (.+) \|$", table, re.MULTILINE)
    return [(name, bytes.fromhex(data), [float(value) for value in values.split(",")]) for name, data, values in rows]


def test_golden_vectors_are_those_of_the_document() -> None:
    assert {part for name, _, _ in golden() for part in re.split(r"\+|:[0-9.]+\+?", name)} - {""} == {
        *VALUES, "topk", "zlib",
    }  # fmt: skip
    for name, data, values in golden():
        assert grow(name, data, len(values)).tolist() == values, name
        again = shrink(name, np.array(values, np.float32), 5)
        if data[:1] == b"\1" and "zlib" in name:  # another zlib may find other bytes
            assert grow(name, again, len(values)).tolist() == values
        else:
            assert again == data, name


@pytest.mark.parametrize("length", [0, 1, 8, 11, 13, 16])
def test_a_wrong_length_is_named(length: int) -> None:
    with pytest.raises(FrameError, match=f"update has {length} bytes, but 3 parameters take 12"):
        grow("float32", bytes(length), 3)
    with pytest.raises(FrameError, match=f"update has {length + 14} bytes, but 3 parameters take 2 to 13"):
        grow("float32+zlib", bytes(length + 14), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "dtype"), [("float32", "<f4"), ("float16", "<f2")])
def test_what_is_no_number_is_refused(value: float, name: str, dtype: str) -> None:
    data = np.array([0, 1, value], dtype).tobytes()
    with pytest.raises(FrameError, match="NaN or infinity in it; training diverged: lower the learning rate"):
        grow(name, data, 3)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("int8", "80 37 01 01 01", r"a block's step is 2\^25 and more: no update moves that far"),
        ("int4", "80 10 11 11", "the half byte behind the last code is not 0"),
        ("topk:0.5+int8", "07 80 10 01", None),
        ("topk:0.5+int8", "01 80 10 01 01", "not 2 of the first 3 bits are set"),
        ("topk:0.5+int8", "0a 80 10 01 01", "not 2 of the first 3 bits are set"),
        ("int8+zlib", "02 80 10 01 01 01", "the first byte b'\\\\x02' is neither 0, as it is, nor 1, deflated"),
        ("int8+zlib", "00 80 10 01 01", "update holds 4 bytes when unpacked, not 5"),
        ("int8+zlib", "01 80 10 01 01 01", "update is not what zlib made"),
        ("float32+zlib", "01 78 9c 63 60", "update does not end where its 12 bytes do"),
    ],
)
def test_what_does_not_hold_together_is_named(name: str, data: str, text: str | None) -> None:
    with pytest.raises(FrameError, match=text or "update has 4 bytes, but 3 parameters take 5"):
        grow(name, bytes.fromhex(data), 3)


@pytest.mark.parametrize("change", [-1, 1, 10**8])
def test_a_bomb_is_not_unpacked(change: int) -> None:
    """What deflates to little is no proof that it is little."""
    size = 4 * 10_000
    bomb = b"\1" + zlib.compress(bytes(size + change))
    tail = b"\1" + zlib.compress(bytes(size)) + b"more"
    tracemalloc.start()
    for data in (bomb[: size + 1], tail):
        with pytest.raises(FrameError):
            grow("float32+zlib", data, 10_000)
    assert tracemalloc.get_traced_memory()[1] < 20 * size
    tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 40), st.data())
def test_any_bytes_grow_or_are_refused(name: str, count: int, data: st.DataObject) -> None:
    if data.draw(st.booleans()):  # bytes of nothing, or sound ones with some of them changed
        content = bytearray(data.draw(st.binary(max_size=lengths(name, count)[-1] + 1)))
    else:
        content = bytearray(shrink(name, learned(count), 1))
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
            content[place] = data.draw(st.integers(0, 255))
    try:
        delta = grow(name, bytes(content), count)
    except FrameError:
        return
    assert delta.shape == (count,)
    assert np.isfinite(delta).all()


@pytest.mark.parametrize("name", ["", "zip", "x" * 1000, "int4+int8", "zlib", "zlib+int4", "int4+zlib+zlib", "int4+",
                                  "topk", "topk:0.1", "topk:0.1+zlib", "int4+topk:0.1", "topk:0.1+topk:0.1+int4"])  # fmt: skip
def test_how_to_write_a_codec_is_said_for_an_unknown_name(name: str) -> None:
    text = r"unknown codec '.{0,32}'; known: float32, float16, int8, int4, each with topk:SHARE\+ before it, \+zlib be"
    with pytest.raises(SettingsError, match=text):
        codec(name)
    assert spoken(name) == "float32"


@pytest.mark.parametrize(
    "share", ["", "0", "1", "0.0", "0.0000", "1.0", "0.00001", "-0.1", "nan", "1e-3", ".1", "0.1 ", "٠.١"]
)
def test_a_share_that_makes_no_sense_is_named(share: str) -> None:
    with pytest.raises(SettingsError, match=r"topk keeps a share from 0\.0001 to 0\.9999; write topk:0\.1"):
        codec(f"topk:{share}+int4")


def test_a_share_is_taken_in_whole_numbers() -> None:
    for text, count in (("0.1", 30), ("0.3", 10), ("0.0001", 10_000), ("0.9999", 10_000), ("0.07", 100)):
        kept = int((Decimal(text) * count).to_integral_exact())
        assert lengths(f"topk:{text}+float32", count) == range(
            (count + 7) // 8 + 4 * kept, (count + 7) // 8 + 4 * kept + 1
        )
    assert [spoken(name) for name in NAMES] == NAMES
