"""Strategies against references that share no code with them."""

from __future__ import annotations

import numpy as np
import pytest

from fedfleet.cloud.strategies import STRATEGIES, momentum, sgd, strategy
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan

WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)
NOTHING = np.zeros((0, 3))


def test_sgd_of_rate_1_is_fedavg() -> None:
    devices = [(np.array([0.5, 0.25, -1], np.float32), 10), (np.array([-0.125, 1, 3], np.float32), 30)]
    local = [WEIGHTS.astype(np.float64) + delta for delta, _ in devices]
    fedavg = (local[0] * 10 + local[1] * 30) / 40  # McMahan et al. 2017: the mean of the local models
    rule = strategy("fedavg")
    mean = rule.aggregate(3)
    for delta, examples in devices:
        mean.add(delta, examples)
    stepped, moments = rule.server.step(WEIGHTS, mean.value(), NOTHING)
    assert stepped.dtype == np.float32
    assert stepped.tolist() == fedavg.astype(np.float32).tolist()
    assert moments.shape == (0, 3)


def test_the_server_rate_scales_the_step() -> None:
    stepped, _ = sgd(0.5).step(WEIGHTS, np.array([1.0, 1.0, -1.0]), NOTHING)
    assert stepped.tolist() == [1.5, -1.5, 0.0]


def test_momentum_by_hand_over_three_rounds() -> None:
    server = momentum(rate=1.0, decay=0.5)
    weights, moments = np.zeros(1, np.float32), np.zeros((server.moments, 1))
    seen = []
    for difference in (1.0, 2.0, -1.0):
        weights, moments = server.step(weights, np.array([difference]), moments)
        seen.append((float(weights[0]), float(moments[0, 0])))
    # v: 1, 0.5*1+2 = 2.5, 0.5*2.5-1 = 0.25; w: 1, 3.5, 3.75
    assert seen == [(1.0, 1.0), (3.5, 2.5), (3.75, 0.25)]


def test_fedavgm_remembers_with_decay_nine_tenths() -> None:
    server = strategy("fedavgm").server
    weights, moments = server.step(np.zeros(1, np.float32), np.array([1.0]), np.zeros((1, 1)))
    weights, _ = server.step(weights, np.array([0.0]), moments)
    assert weights[0] == np.float32(1.9)


def test_fedprox_sets_the_proximal_term_and_keeps_the_owners() -> None:
    rule = strategy("fedprox")
    assert rule.plan(Plan()) == Plan(proximal=0.01)
    assert rule.plan(Plan(proximal=0.5, epochs=3)) == Plan(proximal=0.5, epochs=3)
    assert strategy("fedavg").plan(Plan()).proximal == 0


def test_the_known_strategies_are_listed_for_an_unknown_name() -> None:
    with pytest.raises(SettingsError, match="unknown strategy 'fedsgd'; known: fedavg, fedavgm, fedprox"):
        strategy("fedsgd")
    assert all(strategy(name) is rule for name, rule in STRATEGIES.items())
