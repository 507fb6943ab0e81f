"""FedNova against the paper (Wang et al. 2020), its a_i made by unrolling a device's steps; and what it refuses."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfleet.cloud.strategies import strategy
from fedfleet.cloud.sums import Aggregate, Told
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.messages import Plan

P = 6
Matrix = NDArray[np.float64]
plans = st.sampled_from(
    [
        Plan(epochs=3, learning_rate=0.1),
        Plan(epochs=3, learning_rate=0.05, momentum=0.9),
        Plan(epochs=3, learning_rate=0.1, momentum=0.3),
        Plan(epochs=3, learning_rate=0.1, proximal=0.5),
        Plan(epochs=3, learning_rate=0.5, proximal=1.9),
    ]
)


def a(plan: Plan, steps: int) -> Matrix:
    """How much each gradient of a round counts in its end: x - y = rate * G a (section 4.1), by doing the steps.

    Gradient k is the unit vector e_k, so that the device's weights, which begin at 0, are -rate * a.
    """
    y, velocity = np.zeros(steps), np.zeros(steps)
    for k in range(steps):
        gradient = np.eye(steps)[k] + plan.proximal * y
        velocity = plan.momentum * velocity + gradient
        y = y - plan.learning_rate * velocity
    return -y / plan.learning_rate


class Device(NamedTuple):
    """What a device has done: the gradients it met, float64[P, steps], and on how many examples."""

    gradients: Matrix
    examples: int

    def delta(self, plan: Plan) -> NDArray[np.float32]:
        steps = self.gradients.shape[1]
        return (-plan.learning_rate * self.gradients @ a(plan, steps)).astype(np.float32)


def fednova(plan: Plan, devices: list[Device]) -> Matrix:
    """-tau_eff sum(p_i rate d_i) with d_i = G_i a_i / |a_i|_1 and tau_eff = sum(p_i |a_i|_1): eq. 4 to 8."""
    total = sum(device.examples for device in devices)
    way, effective = np.zeros(P), 0.0
    for device in devices:
        counts = a(plan, device.gradients.shape[1])
        norm = float(np.abs(counts).sum())
        way -= device.examples / total * plan.learning_rate * (device.gradients @ counts) / norm
        effective += device.examples / total * norm
    return effective * way


def made(seed: int, *shapes: tuple[int, int]) -> list[Device]:
    random = np.random.default_rng(seed)
    return [Device(random.normal(size=(P, steps)), examples) for steps, examples in shapes]


def folded(plan: Plan, devices: list[Device]) -> Aggregate:
    found = strategy("fednova").aggregate(P)
    for device in devices:
        steps = float(device.gradients.shape[1])
        found.add(device.delta(plan), device.examples, Told(plan, {"steps": steps}))
    return found


shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(14, 500)), min_size=1, max_size=6)


@given(plans, shapes, st.integers(0, 99))
def test_it_is_the_papers_rule(plan: Plan, found: list[tuple[int, int]], seed: int) -> None:
    devices = made(seed, *found)
    np.testing.assert_allclose(folded(plan, devices).value(), fednova(plan, devices), rtol=1e-4, atol=1e-6)


@given(plans, shapes, st.integers(0, 99), st.randoms(use_true_random=False))
def test_any_order_and_any_shards_give_the_same_bits(
    plan: Plan, found: list[tuple[int, int]], seed: int, random: object
) -> None:
    devices = made(seed, *found)
    whole = folded(plan, devices).value().tobytes()
    random.shuffle(devices)  # type: ignore[attr-defined]
    assert folded(plan, devices).value().tobytes() == whole
    left, right = folded(plan, devices[:2]), folded(plan, devices[2:])
    left.merge(right)
    assert left.value().tobytes() == whole


def test_with_the_same_steps_everywhere_it_is_fedavg() -> None:
    plan, devices = Plan(epochs=2, momentum=0.9), made(3, (5, 10), (5, 90))
    mean = strategy("fedavg").aggregate(P)
    for device in devices:
        mean.add(device.delta(plan), device.examples)
    np.testing.assert_allclose(folded(plan, devices).value(), mean.value(), atol=1e-8)


def test_a_device_with_many_steps_does_not_pull_the_model_to_itself() -> None:
    plan = Plan(learning_rate=0.1, epochs=9)
    devices = [Device(np.ones((P, 100)), 50), Device(-np.ones((P, 1)), 50)]
    np.testing.assert_allclose(folded(plan, devices).value(), 0, atol=1e-6)  # as many examples for as against
    assert np.abs(fednova(plan, devices)).max() < 1e-6


def test_its_rate_is_the_servers() -> None:
    weights = np.zeros(P, np.float32)
    for name, way in (("fednova", 1.0), ("fednova:0.5", 0.5)):
        assert strategy(name).server.step(weights, np.ones(P), np.zeros((0, P)))[0].tolist() == [way] * P


@pytest.mark.parametrize("steps", [None, 0.0, -1.0, 1.5, 21.0, 1e300, math.inf, math.nan])
def test_steps_that_cannot_be_are_refused_and_change_nothing(steps: float | None) -> None:
    plan = Plan(epochs=2)  # at most two batches of one example each
    found = folded(plan, made(1, (4, 10)))
    before = found.value().tobytes()
    with pytest.raises(FrameError, match="steps; with this plan and 10 examples it is 1 to 20"):
        found.add(np.ones(P, np.float32), 10, Told(plan, {} if steps is None else {"steps": steps}))
    with pytest.raises(FrameError, match="too much to be summed"):
        found.add(np.full(P, 2.0**33, np.float32), 10, Told(plan, {"steps": 1.0}))
    assert found.value().tobytes() == before


def test_a_plan_of_steps_bounds_them_by_itself() -> None:
    found = strategy("fednova").aggregate(P)
    found.add(np.ones(P, np.float32), 1, Told(Plan(steps=300), {"steps": 300.0}))
    with pytest.raises(FrameError, match="301 steps; .* it is 1 to 300"):
        found.add(np.ones(P, np.float32), 1000, Told(Plan(steps=300), {"steps": 301.0}))


def test_the_combination_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no updates"):
        strategy("fednova").aggregate(P).value()


@pytest.mark.parametrize(
    ("plan", "key"),
    [
        (Plan(momentum=0.9, nesterov=True), "nesterov"),
        (Plan(momentum=0.9, second_moment=0.99), "second_moment"),
        (Plan(weight_decay=0.1), "weight_decay"),
        (Plan(momentum=0.9, proximal=0.1), "proximal"),
    ],
)
def test_a_plan_without_a_known_a_is_refused(plan: Plan, key: str) -> None:
    with pytest.raises(SettingsError, match=f"^fednova does not go with {key}: set it to (0|false), or choose"):
        strategy("fednova").plan(plan)


def test_a_proximal_term_that_turns_around_is_refused() -> None:
    with pytest.raises(SettingsError, match="fednova takes a plan.proximal below 1 / plan.learning_rate"):
        strategy("fednova").plan(Plan(learning_rate=0.5, proximal=2.0))
