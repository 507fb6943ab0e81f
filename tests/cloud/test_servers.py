"""The server's steps against algorithm 2 of Reddi et al. 2021, written weight by weight in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cloud.servers import ServerOptimizer, adagrad, adam, momentum, sgd, yogi

WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)
BETA1, BETA2, TAU = 0.9, 0.99, 0.001
Way = list[float]


def algorithm2(kind: str, rate: float, start: float, ways: Way) -> Way:
    """One weight after each round, lines 10 to 14; float32 between rounds, as models are published."""
    beta1 = 0.0 if kind == "adagrad" else BETA1
    x, m, v, seen = start, 0.0, TAU * TAU, []
    for way in ways:
        m = beta1 * m + (1 - beta1) * way
        if kind == "adagrad":
            v += way * way
        elif kind == "yogi":
            v -= (1 - BETA2) * way * way * ((v > way * way) - (v < way * way))
        else:
            v = BETA2 * v + (1 - BETA2) * way * way
        x = float(np.float32(x + rate * m / (math.sqrt(v) + TAU)))
        seen.append(x)
    return seen


def stepped(server: ServerOptimizer, start: float, ways: Way) -> Way:
    weights, moments = np.array([start], np.float32), server.moments(1)
    seen = []
    for way in ways:
        weights, moments = server.step(weights, np.array([way]), moments)
        assert weights.dtype == np.float32
        assert moments.shape == server.moments(1).shape
        seen.append(float(weights[0]))
    return seen


@pytest.mark.parametrize("make", [adam, yogi, adagrad])
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.sampled_from([0.01, 0.1, 1.0]))
def test_the_adaptive_servers_are_algorithm_2(make: Callable[[float], ServerOptimizer], ways: Way, rate: float) -> None:
    wanted = algorithm2(make.__name__, rate, 0.25, ways)
    np.testing.assert_allclose(stepped(make(rate), 0.25, ways), wanted, rtol=1e-6, atol=1e-7)


def test_yogi_forgets_a_large_step_more_slowly_than_adam() -> None:
    """Reddi et al. 2021, section 3: their difference is how v shrinks when steps become small."""
    ways = [1.0] + [0.01] * 40
    weights, moments = {}, {}
    for make in (adam, yogi):
        server = make(0.1)
        weights[make], moments[make] = WEIGHTS[:1], server.moments(1)
        for way in ways:
            weights[make], moments[make] = server.step(weights[make], np.array([way]), moments[make])
    assert moments[yogi][1, 0] > 1.4 * moments[adam][1, 0]


def test_moments_start_at_tau_squared_not_at_zero() -> None:
    assert adam(1.0).moments(2).tolist() == [[0.0, 0.0], [TAU**2, TAU**2]]
    assert adagrad(1.0).moments(2).tolist() == [[TAU**2, TAU**2]]
    assert sgd().moments(3).shape == (0, 3)


def test_the_server_rate_scales_the_step() -> None:
    stepped, _ = sgd(0.5).step(WEIGHTS, np.array([1.0, 1.0, -1.0]), sgd().moments(3))
    assert stepped.tolist() == [1.5, -1.5, 0.0]


def test_momentum_by_hand_over_three_rounds() -> None:
    server = momentum(rate=1.0, decay=0.5)
    weights, moments = np.zeros(1, np.float32), server.moments(1)
    seen = []
    for difference in (1.0, 2.0, -1.0):
        weights, moments = server.step(weights, np.array([difference]), moments)
        seen.append((float(weights[0]), float(moments[0, 0])))
    # v: 1, 0.5*1+2 = 2.5, 0.5*2.5-1 = 0.25; w: 1, 3.5, 3.75
    assert seen == [(1.0, 1.0), (3.5, 2.5), (3.75, 0.25)]
