"""q-FedAvg against the paper (Li et al. 2020, algorithm 2), line by line; and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfleet.cloud.strategies import strategy
from fedfleet.cloud.sums import Aggregate, Told
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.messages import Plan

P = 5
PLAN = Plan(learning_rate=0.2)
Fleet = list[tuple[Weights, float]]
numbers = st.floats(-2, 2, width=32)
fleets = st.lists(
    st.tuples(
        st.lists(numbers, min_size=P, max_size=P).map(lambda v: np.array(v, np.float32)),
        st.floats(0.01, 8) | st.just(0.0),
    ),
    min_size=1,
    max_size=6,
)
powers = st.sampled_from([0.001, 0.5, 1.0, 2.0, 5.0])


def qfedavg(fleet: Fleet, q: float) -> NDArray[np.float64]:
    """w(t+1) - w(t) of algorithm 2; `fleet` has local weights less the global ones, and F_k of the global ones."""
    rate = 1 / PLAN.learning_rate  # L
    above, below = np.zeros(P), 0.0
    for local, said in fleet:
        loss = said or 1e-10
        gradient = rate * -local.astype(np.float64)  # delta w_k = L (w - w_k)
        above += loss**q * gradient
        below += q * loss ** (q - 1) * float(np.linalg.norm(gradient)) ** 2 + rate * loss**q
    return -above / below


def folded(fleet: Fleet, q: float) -> Aggregate:
    found = strategy(f"qfedavg:{q:g}").aggregate(P)
    for index, (local, loss) in enumerate(fleet):
        found.add(local, 1 + index, Told(PLAN, {"before": loss}))
    return found


@given(fleets, powers)
def test_it_is_the_papers_algorithm(fleet: Fleet, q: float) -> None:
    wanted = qfedavg(fleet, q)
    if any(loss > 0 for _, loss in fleet):
        np.testing.assert_allclose(folded(fleet, q).value(), wanted, rtol=1e-5, atol=1e-6)


@given(fleets, powers, st.randoms(use_true_random=False))
def test_any_order_and_any_shards_give_the_same_bits(fleet: Fleet, q: float, random: object) -> None:
    whole = folded(fleet, q).value().tobytes()
    random.shuffle(fleet)  # type: ignore[attr-defined]
    left, right = folded(fleet[:2], q), folded(fleet[2:], q)
    left.merge(right)
    assert folded(fleet, q).value().tobytes() == whole == left.value().tobytes()


def test_whom_the_model_serves_badly_counts_more() -> None:
    fleet = [(np.full(P, 0.01, np.float32), 4.0), (np.full(P, -0.01, np.float32), 1.0)]
    ways = [float(folded(fleet, q).value()[0]) for q in (0.001, 1, 2, 5)]
    assert abs(ways[0]) < 1e-4 < ways[1] < ways[2] < ways[3] < 0.01


def test_losses_that_are_small_everywhere_keep_their_digits() -> None:
    fleet = [(np.full(P, 0.01, np.float32), 0.01), (np.full(P, 0.03, np.float32), 0.02)]
    np.testing.assert_allclose(folded(fleet, 3).value(), qfedavg(fleet, 3), rtol=1e-9)


def test_it_asks_for_the_loss_and_has_no_rate() -> None:
    found = strategy("qfedavg:2")
    assert found.plan(Plan(epochs=3)) == Plan(epochs=3, before=True)
    assert not strategy("fedavg").plan(Plan()).before
    stepped, _ = found.server.step(np.zeros(P, np.float32), np.ones(P), np.zeros((0, P)))
    assert stepped.tolist() == [1.0] * P


@pytest.mark.parametrize("loss", [None, -1e-9, math.inf, math.nan])
def test_a_loss_that_cannot_be_is_refused_and_changes_nothing(loss: float | None) -> None:
    found = folded([(np.ones(P, np.float32), 1.0)], 1)
    before = found.value().tobytes()
    with pytest.raises(FrameError, match=r"says no loss from before training, but before=\S+; upgrade the agent"):
        found.add(np.ones(P, np.float32), 10, Told(PLAN, {} if loss is None else {"before": loss}))
    assert found.value().tobytes() == before


def test_one_device_cannot_fill_the_sum() -> None:
    found = folded([(np.ones(P, np.float32), 1.0)], 5)
    before = found.value().tobytes()
    for loss in (17.0, 1e300):
        with pytest.raises(FrameError, match=r"to the power 5 is above 1.04858e\+06; use a smaller q"):
            found.add(np.ones(P, np.float32), 10, Told(PLAN, {"before": loss}))
    with pytest.raises(FrameError, match="too much to be summed"):
        found.add(np.full(P, 2.0**31, np.float32), 10, Told(PLAN, {"before": 3.0}))
    assert found.value().tobytes() == before


def test_the_combination_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no updates"):
        strategy("qfedavg").aggregate(P).value()


@pytest.mark.parametrize("name", ["qfedavg:0", "qfedavg:10.1", "qfedavg:q", "qfedavg:"])
def test_q_has_its_bounds(name: str) -> None:
    with pytest.raises(
        SettingsError, match=f"strategy '{name}': q is a number above 0 and at most 10; write qfedavg:1"
    ):
        strategy(name)
