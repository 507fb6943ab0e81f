"""Examples: read from npz and csv, checked, and shuffled the same way everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples, check, parse, permutation, stream, take

GOLDEN_ORDER = [8, 5, 9, 0, 7, 2, 4, 6, 1, 3]
GOLDEN_DIGEST = "43a56c19e79d8d63"
GOLDEN_WORD = 10454567824479181141


def labelled(n: int = 4, classes: int = 3) -> Examples:
    return Examples(np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3), np.arange(n, dtype=np.int32) % classes)


# order


def test_permutation_is_the_one_written_down() -> None:
    assert permutation(10, "epoch", 7, 0).tolist() == GOLDEN_ORDER
    assert hashlib.sha256(permutation(1000, "epoch", 7, 0).astype("<i8").tobytes()).hexdigest()[:16] == GOLDEN_DIGEST


def test_stream_is_the_one_written_down() -> None:
    assert int(stream("a", 1).random_raw()) == GOLDEN_WORD


@given(st.integers(0, 300), st.integers(-5, 2**70))
def test_permutation_holds_each_index_once(count: int, seed: int) -> None:
    assert sorted(permutation(count, seed).tolist()) == list(range(count))


def test_keys_name_different_orders() -> None:
    orders = {tuple(permutation(50, *key).tolist()) for key in ((1,), (2,), (1, 0), ("1", "00"), (-1,), (1 + 2**64,))}
    assert len(orders) == 6


def test_take_copies_in_order() -> None:
    taken = take(labelled(4), np.array([2, 0]))
    assert taken.y.tolist() == [2, 0]
    assert taken.x[1].tolist() == [[0, 1, 2], [3, 4, 5]]


# check


def test_check_accepts_labels_and_targets() -> None:
    check(labelled())
    check(labelled(), classes=3)
    check(Examples(np.ones((2, 3), np.float32), np.ones((2, 2), np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_names_row_and_column(bad: float) -> None:
    flat = Examples(np.ones((5, 3), np.float32), np.zeros(5, np.int32))
    flat.x[3, 1] = bad
    with pytest.raises(DataError, match=r"x row 3, column 1 .* is -?(nan|inf)"):
        check(flat)
    deep = labelled()
    deep.x[2, 1, 0] = bad
    with pytest.raises(DataError, match=r"x row 2, column \(1, 0\)"):
        check(deep)
    target = Examples(np.ones((2, 1), np.float32), np.array([[0], [bad]], np.float32))
    with pytest.raises(DataError, match="y row 1, column 0"):
        check(target)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones((2, 2)), np.zeros(2, np.int32), r"x must be float32.*float64\[2, 2\]"),
        (np.ones(2, np.float32), np.zeros(2, np.int32), r"x must be float32\[N, \.\.\.\]"),
        (np.ones((2, 0), np.float32), np.zeros(2, np.int32), "x must be"),
        (np.ones((2, 1), np.float32), np.zeros(2, np.int64), "y must be int32"),
        (np.ones((2, 1), np.float32), np.zeros((2, 1), np.int32), "y must be int32"),
        (np.ones((2, 1), np.float32), np.zeros(2, np.float32), "y must be int32"),
        (np.ones((2, 1), np.float32), np.zeros((2, 0), np.float32), "y must be int32"),
        (np.ones((2, 1), np.float32), np.zeros(3, np.int32), "x has 2 rows but y has 3"),
        (np.ones((0, 1), np.float32), np.zeros(0, np.int32), "no examples"),
        (np.ones((2, 1), np.float32), np.array([0, -4], np.int32), "row 1 .* label -4, outside 0.."),
    ],
)
def test_check_refuses(x: Any, y: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check(Examples(x, y))


def test_check_holds_labels_against_the_model() -> None:
    with pytest.raises(DataError, match=r"row 2 \(from 0\) has label 2, outside 0\.\.1"):
        check(labelled(), classes=2)
    with pytest.raises(DataError, match=r"regression targets.*4 classes"):
        check(Examples(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32)), classes=4)


# spec


def test_parse() -> None:
    assert parse("csv:a/b.csv?label=T+1 °C&task=x", ("csv",)) == (
        "csv",
        Path("a/b.csv"),
        {"label": "T+1 °C", "task": "x"},
    )
    for spec in ("tsv:a", "npz", "npz:", "", "digits:x"):
        with pytest.raises(DataError, match=r"npz:\.\.\., csv:\.\.\."):
            parse(spec, ("npz", "csv"))
