"""Robust rules against their papers, written out in plain Python that shares no code with them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.rules import RULES, rule
from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.sums import Aggregate
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError

P = 3
ROWS = ("median", "trimmed:0.2", "krum:1", "multikrum:1,3", "bulyan:1", "geomedian")
ALL = (*ROWS, "clip:2.5", "filter:1000")
Vector = tuple[float, ...]
numbers = st.integers(-64, 64).map(lambda n: n / 8)  # few enough values for ties
vectors = st.tuples(numbers, numbers, numbers)


def fleets(least: int, most: int = 9) -> st.SearchStrategy[list[Vector]]:
    return st.lists(vectors, min_size=least, max_size=most)


def filled(made: Rule, rows: list[Vector]) -> Aggregate:
    found = made.aggregate(P)
    for index, row in enumerate(rows):
        found.add(np.array(row, np.float32), 1 + index)
    return found


def combined(name: str, rows: list[Vector]) -> list[float]:
    return filled(rule(name), rows).value().tolist()


def square(one: Vector, other: Vector) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other))  # exact: all numbers are eighths


def middle(rows: list[Vector]) -> Vector:
    return tuple(statistics.fmean(column) for column in zip(*rows))


def krum_score(index: int, rows: list[Vector], bad: int) -> float:
    """Blanchard et al. 2017, section 3: the sum over i -> j of the squared distances."""
    others = sorted(square(rows[index], row) for other, row in enumerate(rows) if other != index)
    return sum(others[: max(1, len(rows) - bad - 2)])


def by_score(rows: list[Vector], bad: int) -> list[tuple[float, Vector]]:
    return sorted((krum_score(index, rows, bad), row) for index, row in enumerate(rows))


@given(fleets(1))
def test_median_is_the_median_of_each_weight(rows: list[Vector]) -> None:
    assert combined("median", rows) == [statistics.median(column) for column in zip(*rows)]


@given(fleets(4, 12), st.sampled_from(["0.25", "0.3", "0.4", "0.4999"]))
def test_trimmed_mean_is_definition_2_of_yin(rows: list[Vector], share: str) -> None:
    gone = math.floor(Fraction(share) * len(rows))
    assert gone >= 1
    wanted = [statistics.fmean(sorted(column)[gone : len(rows) - gone]) for column in zip(*rows)]
    np.testing.assert_allclose(combined(f"trimmed:{share}", rows), wanted, rtol=1e-12, atol=1e-12)


def test_a_share_is_not_rounded_down_by_floating_point() -> None:
    rows = [(float(i * i),) * P for i in range(100)]
    assert 0.29 * 100 < 29
    assert combined("trimmed:0.29", rows) == [statistics.fmean(i * i for i in range(29, 71))] * P


@given(fleets(5), st.integers(1, 3))
def test_krum_takes_the_update_with_the_best_company(rows: list[Vector], bad: int) -> None:
    bad = min(bad, (len(rows) - 3) // 2)
    scored = by_score(rows, bad)
    best = {row for score, row in scored if score == scored[0][0]}
    assert tuple(combined(f"krum:{bad}", rows)) in best


@given(fleets(5), st.integers(1, 8))
def test_multikrum_means_the_best_few(rows: list[Vector], kept: int) -> None:
    kept = min(kept, len(rows) - 1)
    scored = by_score(rows, 1)
    limit = scored[kept - 1][0]
    sure = [row for score, row in scored if score < limit]
    tied = [row for score, row in scored if score == limit]
    possible = [middle(sure + list(some)) for some in combinations(tied, kept - len(sure))]
    found = combined(f"multikrum:1,{kept}", rows)
    assert min(square(tuple(found), wanted) for wanted in possible) < 1e-20


def bulyan_choices(rows: list[Vector], bad: int) -> Iterator[tuple[Vector, ...]]:
    """El Mhamdi et al. 2018, section 4: all selections that Krum may make of n - 2f, one by one, where scores tie."""
    todo: list[tuple[tuple[Vector, ...], tuple[Vector, ...]]] = [((), tuple(sorted(rows)))]
    seen = set(todo)
    while todo:
        chosen, left = todo.pop()
        if len(left) == 2 * bad:
            yield chosen
            continue
        scored = by_score(list(left), bad)
        for row in {row for score, row in scored if score == scored[0][0]}:
            at = left.index(row)
            step = tuple(sorted((*chosen, row))), (*left[:at], *left[at + 1 :])
            if step not in seen:
                seen.add(step)
                todo.append(step)


def near_median(column: tuple[float, ...], count: int) -> float:
    """The mean of the `count` values with the least sum of distances to the median, found by trying all."""
    center = statistics.median(column)
    subsets = combinations(sorted(column), count)
    return statistics.fmean(min(subsets, key=lambda some: (sum(abs(x - center) for x in some), some)))


@settings(max_examples=40)
@given(fleets(7, 9))
def test_bulyan_is_krum_until_enough_then_the_middle_of_each_weight(rows: list[Vector]) -> None:
    found = combined("bulyan:1", rows)
    possible = [
        tuple(near_median(column, len(rows) - 4) for column in zip(*chosen)) for chosen in bulyan_choices(rows, 1)
    ]
    assert min(square(tuple(found), wanted) for wanted in possible) < 1e-20


def test_bulyan_with_two_bad_ones_among_eleven() -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    rows = [tuple(map(float, row)) for row in generator.normal(1, 0.1, (9, P)).astype(np.float32)]
    rows += [(50.0, 1.0, 1.0), (-1.0, -1.0, -1.0)]
    choices = list(bulyan_choices(rows, 2))  # of the last five, two are each other's nearest: a tie
    assert len(choices) <= 4
    assert not any(liar in chosen for chosen in choices for liar in rows[9:])
    possible = [tuple(near_median(column, 3) for column in zip(*chosen)) for chosen in choices]
    found = combined("bulyan:2", rows)
    assert min(square(tuple(found), wanted) for wanted in possible) < 1e-20


def total_distance(point: Vector, rows: list[Vector]) -> float:
    return sum(math.sqrt(square(point, row)) for row in rows)


@settings(max_examples=60)
@given(fleets(1))
def test_no_point_nearby_has_a_smaller_sum_of_distances_than_the_geometric_median(rows: list[Vector]) -> None:
    """Pillutla et al. 2022, eq. 4: what the geometric median is; the sum is convex, so looking nearby is enough.

    Up to 1 %: where the median is one of the updates, but only just, the last way there is slow (section 4).
    """
    found = tuple(combined("geomedian", rows))
    least = 0.99 * total_distance(found, rows) - 1e-3
    for way in (np.eye(P)[axis] * sign for axis in range(P) for sign in (1, -1)):
        for far in (0.01, 0.1, 1.0):
            assert total_distance(tuple(found + far * way), rows) >= least
    assert all(total_distance(row, rows) >= least for row in rows)


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    """Seen from there, the corners of any triangle without a very wide angle lie 120 degrees apart."""
    rows = [(0.0, 0.0, 1.0), (4.0, 0.0, 1.0), (1.0, 3.0, 1.0)]
    ways = np.array(rows) - combined("geomedian", rows)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    np.testing.assert_allclose(ways @ ways.T, np.full((3, 3), -0.5) + 1.5 * np.eye(3), atol=1e-4)


def test_a_crowd_in_one_place_is_the_geometric_median() -> None:
    rows = [(1.0, 2.0, 3.0)] * 4 + [(1e9, -1e9, 0.0)] * 3
    np.testing.assert_allclose(combined("geomedian", rows), [1.0, 2.0, 3.0], atol=1e-4)


def test_an_update_of_nothing_does_not_hold_the_geometric_median_where_it_starts() -> None:
    rows = [(0.0,) * P, (1.0, 1.0, 1.25), (1.0, 1.25, 1.0), (1.25, 1.0, 1.0), (0.75, 1.0, 1.0)]
    found = combined("geomedian", rows)
    np.testing.assert_allclose(found, [1.0] * P, atol=0.15)


@given(fleets(1), st.sampled_from([0.5, 2.0, 100.0]))
def test_clip_is_the_weighted_mean_of_shortened_updates(rows: list[Vector], norm: float) -> None:
    shorter = [[x / max(1.0, math.dist(row, (0.0,) * P) / norm) for x in row] for row in rows]
    wanted = np.average(shorter, axis=0, weights=range(1, len(rows) + 1))
    np.testing.assert_allclose(combined(f"clip:{norm}", rows), wanted, atol=1e-5)


def test_filter_refuses_what_is_too_long_and_says_so() -> None:
    found = rule("filter:5").aggregate(P)
    found.add(np.array([3, 4, 0], np.float32), 10)
    with pytest.raises(FrameError, match="norm 5.38516 is above 5; train for less, or raise filter's bound"):
        found.add(np.array([3, 4, 2], np.float32), 10)
    found.add(np.array([0, 0, 1], np.float32), 30)
    assert found.value().tolist() == [0.75, 1.0, 0.75]


@pytest.mark.parametrize("name", ALL)
@given(rows=fleets(7), data=st.data())
@settings(max_examples=25)
def test_any_order_and_any_shards_give_the_same_bits(name: str, rows: list[Vector], data: st.DataObject) -> None:
    pairs = [(np.array(row, np.float32), examples) for examples, row in enumerate(rows, 1)]
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    shards = [rule(name).aggregate(P) for _ in range(3)]
    for (delta, examples), owner in zip(data.draw(st.permutations(list(pairs))), owners):
        shards[owner].add(delta, examples)
    shards[2].merge(shards[0])
    shards[2].merge(shards[1])
    assert shards[2].value().tobytes() == filled(rule(name), rows).value().tobytes()


Lie = Callable[[Weights], Weights]
LIES: dict[str, Lie] = {
    "flipped and scaled": lambda delta: delta * -20,
    "a constant": lambda delta: np.full_like(delta, 1e6),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", ["median", "trimmed:0.2", "krum:3", "multikrum:3,6", "bulyan:3", "geomedian"])
def test_three_liars_among_fifteen_change_little(name: str, lie: str) -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    honest = (1 + generator.normal(0, 0.2, (15, 50))).astype(np.float32)
    found, mean = rule(name).aggregate(50), honest.mean(axis=0)
    for index, delta in enumerate(honest):
        found.add(LIES[lie](delta) if index % 5 == 0 else delta, 10**9 if index % 5 == 0 else 10)
    assert np.sqrt(np.mean((found.value() - mean) ** 2)) < 0.25
    assert set(RULES) - {"clip", "filter", "tff"} == {made.partition(":")[0] for made in ROWS}
