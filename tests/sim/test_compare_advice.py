"""The recommendation follows from the figures: others, and it is another; and it quotes those that it goes by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.sim.compare import alone, central, fleets
from fedfleet.sim.compare.advice import Advice, Scale, advise
from fedfleet.sim.compare.contender import Ending, Result, Traits

ACCURACY = Scale("accuracy", "", 400)
RMSE = Scale("rmse", "cycles", 100)
MB = 10**6
WAYS = {
    traits.name: traits for traits in (central.TRAITS, alone.TRAITS, fleets.FEDERATION, fleets.HYBRID, fleets.GOSSIP)
}


def ending(score: float | None, sent: float = 1.0, *, ended: bool = True) -> Ending:
    return Ending(ended, score, rounds=10, seconds=1.0, sent=int(sent * MB), received=int(sent * MB))


def result(traits: Traits, score: float | None, sent: float = 1.0, died: float | None = None) -> Result:
    return Result(traits, ending(score, sent), ending(died, sent) if died is not None else None)


def advice(scale: Scale = ACCURACY, **scores: tuple[float | None, float] | float) -> Advice:
    """What is recommended where the ways have these scores, and megabytes if they are given."""
    found = [(WAYS[name], value if isinstance(value, tuple) else (value, 1.0)) for name, value in scores.items()]
    return advise([result(traits, *pair) for traits, pair in found], scale)


def test_the_best_that_keeps_raw_data_is_recommended_whichever_it_is() -> None:
    others = {"train": 0.99, "alone": 0.5, "federation": 0.5, "gossip": 0.5}
    for name in ("alone", "federation", "gossip"):
        found = advice(**others | {name: 0.9})
        assert found.name == name
        assert "90.00 %" in found.verdict
        assert "is the best of them" in found.reasons[0]


def test_raw_data_is_never_recommended_to_move_but_its_gain_is_told() -> None:
    found = advice(train=(0.99, 20.0), federation=0.9)
    assert found.name == "federation"
    assert found.reasons[-1] == (
        "If raw data may move: distributed training in one place reaches 99.00 %, 9.0 points better, once 20 MB of raw "
        "data leave the devices; federation moves 2 MB and no raw data."
    )
    near = advice(train=0.905, federation=0.9)
    assert near.reasons[-1].startswith("Moving raw data brings no better model")
    assert "0.5 points better, less than can be told" in near.reasons[-1]
    worse = advice(train=0.8, federation=0.9)
    assert "10.0 points worse. Then" in worse.reasons[-1]


def test_between_those_that_cannot_be_told_apart_the_cheapest_is_taken() -> None:
    found = advice(federation=(0.90, 10.0), gossip=(0.91, 20.0), alone=(0.6, 0.0))
    assert found.name == "federation"
    assert "Between federation and gossip there is no difference to be told" in found.reasons[0]
    assert "federation moves 20 MB in all" in found.reasons[1]
    assert "gossip 40 MB and a broker." in found.reasons[1]
    assert advice(federation=(0.90, 30.0), gossip=(0.91, 20.0)).name == "gossip"
    assert advice(federation=(0.90, 10.0), gossip=(0.91, 20.0), alone=(0.9, 0.0)).name == "alone"


def test_at_equal_cost_the_one_that_needs_least_is_taken() -> None:
    assert advice(federation=(0.9, 10.0), hybrid=(0.9, 9.9)).name == "federation"
    assert advice(federation=(0.9, 10.0), gossip=(0.9, 10.5)).name == "gossip"
    assert advice(federation=(0.9, 10.0), hybrid=(0.97, 10.0)).name == "hybrid"


def test_one_that_deaths_end_is_left_out_where_another_is_as_good() -> None:
    broken = Result(fleets.FEDERATION, ending(0.91, 1.0), ending(None, ended=False))
    found = advise([broken, result(fleets.GOSSIP, 0.9, 5.0, died=0.88)], ACCURACY)
    assert found.name == "gossip"
    assert any("Left out though as good: federation" in reason for reason in found.reasons)
    assert "that costs 2.0 points (90.00 % to 88.00 %, less than can be told)" in " ".join(found.reasons)
    diverged = Result(fleets.FEDERATION, ending(0.91, 1.0), ending(float("nan")))
    assert advise([diverged, result(fleets.GOSSIP, 0.9, 5.0, died=0.88)], ACCURACY).name == "gossip"
    alone_there = advise([broken], ACCURACY)
    assert alone_there.name == "federation"
    assert "Participants that die half way end it" in " ".join(alone_there.reasons)


def test_less_is_better_for_an_error() -> None:
    found = advice(RMSE, train=14.0, federation=15.0, alone=30.0)
    assert found.name == "federation"
    assert "15.00 cycles" in found.verdict
    assert "Each device alone is 15.00 cycles worse, though it needs no broker and no aggregator." in found.reasons


def test_where_nothing_has_a_score_nothing_is_recommended() -> None:
    assert advice(federation=None, train=0.9).name == ""
    assert advice(federation=float("nan")).name == ""
    assert advise([], ACCURACY).verdict.startswith("Nothing is recommended")


def test_the_margin_is_that_of_so_many_examples() -> None:
    assert ACCURACY.margin(0.9) == pytest.approx(2 * (2 * 0.9 * 0.1 / 400) ** 0.5)
    assert ACCURACY.margin(1.0) > 0, "all right among 400 is not all right among all"
    assert RMSE.margin(20.0) == pytest.approx(4.0)
    assert replace(ACCURACY, examples=40_000).margin(0.9) == pytest.approx(ACCURACY.margin(0.9) / 10)


@given(st.dictionaries(st.sampled_from(sorted(WAYS)), st.tuples(st.floats(0, 1), st.floats(0.1, 100)), min_size=1))
def test_whatever_the_figures_the_advice_keeps_raw_data_and_is_as_good_as_the_best(
    scores: dict[str, tuple[float, float]],
) -> None:
    found = advice(**scores)
    private = {name: score for name, (score, _) in scores.items() if name != "train"}
    if not private:
        assert found.name == ""
        return
    best = max(private.values())
    assert private[found.name] >= best - ACCURACY.margin(best)
    assert all("\n" not in reason for reason in found.reasons)
    assert ACCURACY.text(private[found.name]) in found.verdict
    traffic = {name: sent for name, (_, sent) in scores.items() if name in private}
    tied = [name for name in private if private[name] >= best - ACCURACY.margin(best)]
    assert traffic[found.name] <= 1.11 * min(traffic[name] for name in tied)
