"""The exact mean: one result to the bit, whatever the order, the grouping or the shards."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfleet.cloud.sums import BLOCK, EXACT, HEADROOM, SCALE_BITS, Mean, Sum
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError

P = 5
numbers = st.floats(-100, 100, width=32)
updates = st.lists(
    st.tuples(
        st.lists(numbers, min_size=P, max_size=P).map(lambda v: np.array(v, np.float32)),
        st.integers(1, 10_000) | st.integers(EXACT // 101 - 9_000, EXACT // 101 + 9_000),  # float64 is full after one
    ),
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


def plainly(found: Updates) -> NDArray[np.int64]:
    """Return the sum in units of 2^-30 by integers alone."""
    units = [np.rint(delta.astype(np.float64) * 2.0**SCALE_BITS).astype(np.int64) * n for delta, n in found]
    return np.asarray(np.sum(units, axis=0))


@given(updates)
def test_the_sum_is_that_of_integers_wherever_it_is_kept(found: Updates) -> None:
    assert folded(found).total.tolist() == plainly(found).tolist()


def test_what_float64_would_round_is_settled_before() -> None:
    full, mean, moved = np.full(P, 0.999_999_94, np.float32), Mean.empty(P), np.full(P, 2.0**-30, np.float32)
    mean.add(full, EXACT - 1)
    assert mean.near == EXACT - 1 and not mean.settled.any()
    mean.add(moved, 1)
    assert mean.near == EXACT and not mean.settled.any()
    mean.add(moved, 3)
    assert mean.near == 3 and mean.settled.all()
    mean.add(moved, EXACT + 1)
    assert mean.near == 3
    found = [(full, EXACT - 1), (moved, 1), (moved, 3), (moved, EXACT + 1)]
    assert mean.total.tolist() == plainly(found).tolist()
    assert mean.near == 0 and not mean.recent.any()


def test_models_of_many_blocks_are_summed_to_their_ends() -> None:
    random = np.random.default_rng(0)
    found = [(random.standard_normal(2 * BLOCK + 3).astype(np.float32), n) for n in (7, EXACT // 16, EXACT)]
    mean = Mean.empty(2 * BLOCK + 3)
    for delta, examples in found:
        mean.add(delta, examples)
    assert np.array_equal(mean.total, plainly(found))


@pytest.mark.parametrize("tie", [0.5, 1.5, -0.5, 2.5, -(2.0**22) + 0.5])
def test_ties_go_to_the_even_unit(tie: float) -> None:
    mean = Mean.empty(1)
    mean.add(np.array([tie * 2.0**-SCALE_BITS], np.float32), 3)
    assert mean.total[0] == 3 * round(tie)  # Python's own goes to the even one as well


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
        mean.merge(Mean(np.ones(P, np.int64), np.zeros(P), 1, HEADROOM))
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
