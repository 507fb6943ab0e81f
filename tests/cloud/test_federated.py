"""What devices make of a model, against other ways to count it; and whatever a device may claim."""

from __future__ import annotations

import math
import random
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cloud.federated import MOST, PERCENTILES, Federated, Measure, brief, federated, percentiles, told
from fedfleet.wire.messages import Update

ACCURACY, RMSE, MAE = Measure(), Measure("rmse", 125.0), Measure("mae", 2.0)
FLOATS = st.floats(0, 1e6, allow_subnormal=False)


def update(device: str, **metrics: float) -> Update:
    return Update(3, device, 10, "float32", b"delta", metrics)


def says(device: str, loss: float, metric: float, examples: float) -> Update:
    return update(device, eval_loss=loss, eval_metric=metric, eval_examples=examples, loss=0.5)


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_percentiles_are_those_of_numpy_and_of_the_standard_library(values: list[float]) -> None:
    found = percentiles(values)
    assert list(found) == ["p5", "p25", "p50", "p75", "p95"]
    assert list(found.values()) == pytest.approx(list(np.percentile(values, PERCENTILES)), abs=1e-9)
    if len(values) > 1:
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        assert list(found.values()) == pytest.approx([cuts[part // 5 - 1] for part in PERCENTILES], abs=1e-9)
    assert list(percentiles(sorted(values, reverse=True)).values()) == list(found.values())


@given(
    st.lists(st.tuples(FLOATS, st.floats(0, 1), st.integers(1, 10**6)), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_the_mean_is_by_examples_and_each_device_counts_once_across(
    devices: list[tuple[float, float, int]], shuffle: random.Random
) -> None:
    updates = [says(f"d{i}", loss, share * n, n) for i, (loss, share, n) in enumerate(devices)]
    for measure in (ACCURACY, RMSE, MAE):
        found = federated(updates, 7, measure)
        assert found is not None
        total = sum(n for *_, n in devices)
        assert (found.of, found.devices, found.examples, found.left_out) == (7, len(devices), total, 0)
        assert found.scores["loss"] == float(sum(Fraction(loss) for loss, *_ in devices)) / total
        mean = float(sum(Fraction(share * n) for _, share, n in devices) / total)
        each = [share * n / n for _, share, n in devices]
        natural = {"accuracy": lambda v: v, "rmse": lambda v: 125 * math.sqrt(v), "mae": lambda v: 2 * v}[measure.name]
        assert found.scores[measure.name] == pytest.approx(natural(mean))
        spread = [natural(float(v)) for v in each]
        assert found.spread[measure.name]["p50"] == pytest.approx(statistics.median(spread))
        assert list(found.spread) == list(found.scores) == ["loss", measure.name]
        shuffle.shuffle(updates)
        assert federated(updates, 7, measure) == found


@pytest.mark.parametrize(
    "claim",
    [
        {"eval_loss": math.nan, "eval_metric": 1, "eval_examples": 2},
        {"eval_loss": 1, "eval_metric": math.nan, "eval_examples": 2},
        {"eval_loss": math.inf, "eval_metric": 1, "eval_examples": 2},
        {"eval_loss": 1, "eval_metric": 1, "eval_examples": math.nan},
        {"eval_loss": 1, "eval_metric": 1, "eval_examples": math.inf},
        {"eval_loss": 1, "eval_metric": 1, "eval_examples": 0},
        {"eval_loss": 1, "eval_metric": 1, "eval_examples": -2},
        {"eval_loss": 1, "eval_metric": 1, "eval_examples": 1.5},
        {"eval_loss": 1, "eval_metric": 1, "eval_examples": 2.0**60},
        {"eval_loss": -0.1, "eval_metric": 1, "eval_examples": 2},
        {"eval_loss": 1, "eval_metric": -1, "eval_examples": 2},
        {"eval_loss": 1, "eval_metric": 2.01, "eval_examples": 2},
        {"eval_loss": 2.1 * MOST, "eval_metric": 1, "eval_examples": 2},
        {"eval_metric": 1, "eval_examples": 2},
        {"eval_examples": 2},
    ],
)
def test_a_claim_that_cannot_be_is_left_out_and_counted(claim: dict[str, float]) -> None:
    good = [says("a", 1.0, 3.0, 4), says("b", 2.0, 2.0, 4)]
    without, found = federated(good, 1, ACCURACY), federated([*good, update("c", **claim)], 1, ACCURACY)
    assert without is not None and found is not None
    assert found == Federated(1, 2, 8, 1, without.scores, without.spread)
    assert federated([update("c", **claim)], 1, ACCURACY) == Federated(1, 0, 0, 1)


def test_an_error_may_be_greater_than_one_and_an_accuracy_is_at_most_one() -> None:
    error = federated([says("a", 8.0, 8.0, 2)], 1, Measure("mae"))
    assert error is not None and error.scores == {"loss": 4.0, "mae": 4.0}
    rounded = federated([says("a", 8.0, 3.0000002, 3)], 1, ACCURACY)
    assert rounded is not None and rounded.scores["accuracy"] == 1.0


def test_devices_that_say_nothing_are_no_part_of_it() -> None:
    old = update("old", loss=0.5, steps=3)
    assert federated([old], 1, ACCURACY) is None
    assert federated([], 1, ACCURACY) is None
    found = federated([old, says("a", 1.0, 1.0, 2)], 1, ACCURACY)
    assert found is not None and (found.devices, found.left_out) == (1, 0)


def test_it_is_told_in_a_line() -> None:
    found = federated([says("a", 1.0, 3.0, 4), says("b", 4.0, 2000.0, 4000), update("c", eval_examples=1)], 1, ACCURACY)
    assert found is not None
    assert told(found) == (
        "loss 0.0012 (p5 0.0135, p25 0.0633, p50 0.1255, p75 0.1878, p95 0.2375), "
        "accuracy 0.5002 (p5 0.5125, p25 0.5625, p50 0.6250, p75 0.6875, p95 0.7375); "
        "2 devices, 4,004 examples, 1 left out"
    )
    assert brief(found) == "accuracy 0.5002 (0.5125 to 0.7375)"
    assert brief(Federated(1, 0, 0, 3)) == "no metrics"
    assert told(Federated(1, 0, 0, 3)) == "no metrics; 0 devices, 0 examples, 3 left out"
