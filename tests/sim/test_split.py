"""Splits: every example on one device, each device with some, and the same split wherever it is made."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.sim.datasets import Dataset
from fedfleet.sim.split import ALPHAS, counts, split
from fedfleet.wire.errors import DataError, FedfleetError, SettingsError
from fedfleet.wire.examples import Examples

GOLDEN = {
    "iid": "4f151e30a66456ed",
    "dirichlet:0.1": "5a0ed1f1a8aec6b5",
    "dirichlet:2.5": "ee4670bcad050d88",
    "dirichlet:0.5": "639b8df6f89700cb",
}


def dataset(total: int, classes: int | None = 4, groups: list[int] | None = None) -> Dataset:
    """Example n has x = n; its label is n % classes, or its target n squared."""
    n = np.arange(total)
    y = (n.astype(np.float32) ** 2)[:, None] if classes is None else (n % classes).astype(np.int32)
    train = Examples(n.astype(np.float32)[:, None], y)
    return Dataset("made", train, train, classes, None if groups is None else np.array(groups), "accuracy", 1.0)


def numbers(parts: list[Examples]) -> list[list[int]]:
    return [part.x[:, 0].astype(int).tolist() for part in parts]


SPECS = st.one_of(
    st.just("iid"), st.floats(ALPHAS[0], 10).map(lambda a: f"dirichlet:{a}"), st.just(f"dirichlet:{ALPHAS[1]}")
)


@settings(max_examples=200, deadline=None)
@given(SPECS, st.integers(2, 150), st.integers(1, 80), st.one_of(st.none(), st.integers(1, 12)), st.integers(0, 2**40))
def test_every_example_is_on_one_device(spec: str, total: int, devices: int, classes: int | None, seed: int) -> None:
    data = dataset(total, classes)
    if devices * 2 > total:
        with pytest.raises(DataError, match=f"{total} examples, too few for 2 on {devices} devices"):
            split(spec, data, devices, seed)
        return
    parts = split(spec, data, devices, seed)
    assert len(parts) == devices and min(len(part.y) for part in parts) >= 2
    assert sorted(n for part in numbers(parts) for n in part) == list(range(total))
    for part in parts:
        assert np.array_equal(part.y, data.train.y[part.x[:, 0].astype(int)])


def test_iid_sizes_differ_by_one() -> None:
    assert sorted({len(part.y) for part in split("iid", dataset(100), 7, 0)}) == [14, 15]


@pytest.mark.parametrize("spec", ["iid", "dirichlet:0.3"])
def test_the_seed_decides(spec: str) -> None:
    data = dataset(200)
    assert numbers(split(spec, data, 5, 1)) == numbers(split(spec, data, 5, 1))
    assert numbers(split(spec, data, 5, 1)) != numbers(split(spec, data, 5, 2))


@pytest.mark.parametrize(
    ("spec", "classes"), [("iid", 4), ("dirichlet:0.1", 4), ("dirichlet:2.5", 4), ("dirichlet:0.5", None)]
)
def test_splits_are_the_ones_written_down(spec: str, classes: int | None) -> None:
    parts = numbers(split(spec, dataset(300, classes), 12, 5))
    assert hashlib.sha256(repr(parts).encode()).hexdigest()[:16] == GOLDEN[spec]


def test_smaller_alpha_is_more_skewed() -> None:
    data = dataset(4000, 10)
    spread = []
    for alpha in (0.01, 0.1, 1, 10, 1e6):
        table = counts(split(f"dirichlet:{alpha}", data, 10, 0), 10)
        assert table.sum() == 4000 and (table.sum(axis=0) == 400).all()
        spread.append(float(np.std(table)))
    assert spread == sorted(spread, reverse=True) and spread[0] > 100 and spread[-1] < 1


def test_shares_have_the_moments_of_dirichlet() -> None:
    # One class, so a device's size is its share: mean 1/k and variance (1/k)(1 - 1/k)/(k alpha + 1).
    devices, total = 8, 10_000
    for alpha in (0.2, 1.0, 5.0):
        sizes = [
            [len(part.y) for part in split(f"dirichlet:{alpha}", dataset(total, 1), devices, s)] for s in range(150)
        ]
        want = math.sqrt(7 / 64 / (devices * alpha + 1))
        assert abs(np.std(np.array(sizes) / total) / want - 1) < 0.1


def test_targets_are_split_by_their_size() -> None:
    parts = split("dirichlet:0.05", dataset(1000, None), 5, 0)
    tenths = [np.bincount(part.x[:, 0].astype(int) // 100, minlength=10) for part in parts]
    assert np.std(tenths) > 30
    assert (
        np.std(
            [np.bincount(p.x[:, 0].astype(int) // 100, minlength=10) for p in split("iid", dataset(1000, None), 5, 0)]
        )
        < 10
    )


def test_equal_targets_share_a_bin() -> None:
    y = np.array([0.0] * 6 + [1.0] * 94, np.float32)[:, None]
    train = Examples(np.arange(100, dtype=np.float32)[:, None], y)
    parts = split("dirichlet:0.001", Dataset("ties", train, train, None, None, "rmse", 1.0), 3, 1)
    assert sorted(len(part.y) for part in parts)[-1] >= 90


def test_natural_is_by_group() -> None:
    groups = [7, 3, 3, 7, 5, 5, 5, 3]
    data = dataset(8, groups=groups)
    assert numbers(split("natural", data, 3, 0)) == [[1, 2, 7], [4, 5, 6], [0, 3]]
    assert numbers(split("natural", data, 2, 9)) == [[1, 2, 7], [4, 5, 6]]


def test_natural_refuses() -> None:
    with pytest.raises(DataError, match="does not say which device"):
        split("natural", dataset(8), 2, 0)
    with pytest.raises(SettingsError, match="2 devices, not 3"):
        split("natural", dataset(8, groups=[0, 0, 0, 0, 1, 1, 1, 1]), 3, 0)
    with pytest.raises(DataError, match="device 1 of made has 1 example"):
        split("natural", dataset(8, groups=[0, 0, 0, 0, 0, 0, 0, 1]), 2, 0)


@pytest.mark.parametrize(
    ("spec", "devices", "words"),
    [
        ("iid", 0, "at least 1"),
        ("iid", -3, "at least 1"),
        ("even", 2, "iid, dirichlet:ALPHA or natural"),
        ("iid:3", 2, "iid, dirichlet:ALPHA or natural"),
        ("dirichlet", 2, "ALPHA"),
        ("dirichlet:", 2, "ALPHA"),
        ("dirichlet:x", 2, "'x'"),
        ("dirichlet:0", 2, "'0'"),
        ("dirichlet:-1", 2, "'-1'"),
        ("dirichlet:nan", 2, "'nan'"),
        ("dirichlet:inf", 2, "'inf'"),
    ],
)
def test_requests_that_make_no_sense(spec: str, devices: int, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        split(spec, dataset(20), devices, 0)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_counts() -> None:
    parts = [Examples(np.zeros((3, 1), np.float32), np.array([0, 2, 2], np.int32)), dataset(1).train]
    assert counts(parts, 4).tolist() == [[1, 0, 2, 0], [1, 0, 0, 0]]
    for bad, classes in (([dataset(4, None).train], 4), (parts, 2)):
        with pytest.raises(FedfleetError):
            counts(bad, classes)
