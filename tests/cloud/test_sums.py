"""The exact mean: one result to the bit, whatever the order, the grouping or the shards."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfleet.cloud.sums import HEADROOM, SCALE_BITS, Mean, Sum
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError

P = 5
numbers = st.floats(-100, 100, width=32)
updates = st.lists(
    st.tuples(st.lists(numbers, min_size=P, max_size=P).map(lambda v: np.array(v, np.float32)), st.integers(1, 10_000)),
    min_size=1,
    max_size=8,
)
Updates = list[tuple[Weights, int]]


def folded(found: Updates) -> Mean:
    mean = Mean.empty(P)
    for delta, examples in found:
        mean.add(delta, examples)
    return mean


def merged(left: Mean, right: Mean) -> Mean:
    left.merge(right)
    return left


def bits(mean: Mean) -> tuple[bytes, int, int, bytes]:
    return mean.total.tobytes(), mean.examples, mean.bound, mean.value().tobytes()


@given(updates, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits(found: Updates, random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert bits(folded(shuffled)) == bits(folded(found))


@given(updates, st.data())
def test_any_shards_and_any_grouping_give_the_same_bits(found: Updates, data: st.DataObject) -> None:
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(found), max_size=len(found)))
    shards = [folded([u for u, owner in zip(found, owners) if owner == shard]) for shard in range(4)]
    order = data.draw(st.permutations(shards))
    assert bits(reduce(merged, order, Mean.empty(P))) == bits(folded(found))
    again = [folded([u for u, owner in zip(found, owners) if owner == shard]) for shard in range(4)]
    nested = merged(merged(again[0], again[1]), merged(again[2], again[3]))
    assert bits(nested) == bits(folded(found))


@settings(max_examples=60)
@given(updates)
def test_the_value_is_the_weighted_mean_within_the_resolution(found: Updates) -> None:
    weights = np.array([examples for _, examples in found], np.float64)
    wanted = np.average(np.stack([delta for delta, _ in found]).astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(folded(found).value(), wanted, rtol=0, atol=2.0**-SCALE_BITS)


def test_the_neutral_element_changes_nothing() -> None:
    one = folded([(np.full(P, 0.3, np.float32), 7)])
    before = bits(one)
    one.merge(Mean.empty(P))
    assert bits(one) == before
    assert bits(merged(Mean.empty(P), one)) == before


def test_saturation_is_refused_before_anything_changes() -> None:
    mean = folded([(np.full(P, 1.5, np.float32), 3)])
    before = bits(mean)
    for peak, examples in [(2.0**32, 1), (1.0, HEADROOM), (np.inf, 1), (np.nan, 1), (3e38, 1), (-(2.0**33), 1)]:
        with pytest.raises(FrameError, match="too much to be summed exactly.*lower the learning rate"):
            mean.add(np.array([0, 0, peak, 0, 0], np.float32), examples)
    with pytest.raises(FrameError, match="too much"):
        mean.merge(Mean(np.ones(P, np.int64), 1, HEADROOM))
    assert bits(mean) == before


@given(st.floats(0, float(HEADROOM), width=32), st.integers(1, HEADROOM), st.integers(1, 4))
def test_what_is_accepted_never_leaves_int64(peak: float, examples: int, times: int) -> None:
    mean, exact = Mean.empty(1), 0
    for _ in range(times):
        try:
            mean.add(np.array([peak], np.float32), examples)
        except FrameError:
            break
        exact += round(float(np.float32(peak)) * 2**SCALE_BITS) * examples  # Python's integers have no end
    assert int(mean.total[0]) == exact


tiny = st.lists(st.floats(-1e-6, 1e-6), min_size=P, max_size=P).map(lambda v: np.array(v, np.float64))


@given(st.lists(st.tuples(tiny, st.integers(1, 1000)), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_sum_keeps_what_is_small_and_its_bits_in_any_order(
    found: list[tuple[NDArray[np.float64], int]], random: object
) -> None:
    def summed(some: list[tuple[NDArray[np.float64], int]]) -> Sum:
        total = Sum.empty(P)
        for values, times in some:
            total.add(values, times)
        return total

    exact = [float(sum(Fraction(v[i]) * times for v, times in found)) for i in range(P)]
    np.testing.assert_allclose(summed(found).value(), exact, rtol=0, atol=2.0**-48)
    whole = summed(found).value().tobytes()
    random.shuffle(found)  # type: ignore[attr-defined]
    left, right = summed(found[1:]), summed(found[:1])
    left.merge(right)
    assert left.value().tobytes() == whole


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="mean of no updates"):
        Mean.empty(P).value()
