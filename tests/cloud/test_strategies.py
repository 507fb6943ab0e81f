"""Names of strategies, and what they are made of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fedfleet.cloud.rules import RULES
from fedfleet.cloud.strategies import ALGORITHMS, strategy
from fedfleet.cloud.sums import Mean
from fedfleet.cloud.tff.stepping import STARTS
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan

WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)
NOTHING = np.zeros((0, 3))


def moved(name: str, way: float = 1.0) -> list[float]:
    """Where the server of `name` gets to from zero in two steps of `way`."""
    server = strategy(name).server
    weights, moments = np.zeros(1, np.float32), server.moments(1)
    seen = []
    for _ in range(2):
        weights, moments = server.step(weights, np.array([way]), moments)
        seen.append(float(weights[0]))
    return seen


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


def test_fedavgm_remembers_with_decay_nine_tenths() -> None:
    server = strategy("fedavgm").server
    weights, moments = server.step(np.zeros(1, np.float32), np.array([1.0]), server.moments(1))
    weights, _ = server.step(weights, np.array([0.0]), moments)
    assert weights[0] == np.float32(1.9)


def test_fedprox_sets_the_proximal_term_and_keeps_the_owners() -> None:
    rule = strategy("fedprox")
    assert rule.plan(Plan()) == Plan(proximal=0.01)
    assert rule.plan(Plan(proximal=0.5, epochs=3)) == Plan(proximal=0.5, epochs=3)
    assert strategy("fedavg").plan(Plan()).proximal == 0


def test_the_rate_in_the_name_is_the_servers() -> None:
    assert moved("fedavg") == [1.0, 2.0]
    assert moved("fedavg:0.5") == [0.5, 1.0]
    assert moved("median+fedavgm:2") == [2.0, 2 * np.float32(2.9)]
    assert moved("fedadam:0.06")[0] == pytest.approx(2 * moved("fedadam")[0])
    assert moved("fedadam") != moved("fedyogi")


def test_a_rule_goes_with_every_algorithm() -> None:
    alike = {name: made for name, made in ALGORITHMS.items() if made.combine is None and name not in STARTS}
    assert set(ALGORITHMS) - set(alike) == {"scaffold", "fednova", "qfedavg", *STARTS}  # those are for test_tff.py
    for algorithm, made in alike.items():
        found, alone = strategy(f"krum:2+{algorithm}"), strategy(algorithm)
        assert found.least == 7 and alone.least == 1
        assert found.server.start == alone.server.start == made.server(1.0).start
        assert found.plan(Plan()) == alone.plan(Plan())
        assert isinstance(alone.aggregate(3), Mean) and not isinstance(found.aggregate(3), Mean)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("median", 1),
        ("geomedian", 1),
        ("clip:1.5", 1),
        ("filter:0.25+fedprox", 1),
        ("trimmed:0.1", 10),
        ("trimmed:0.3", 4),
        ("krum:1", 5),
        ("multikrum:1,2", 5),
        ("multikrum:1,9", 10),
        ("bulyan:2", 11),
    ],
)
def test_how_many_updates_a_rule_takes(name: str, least: int) -> None:
    assert strategy(name).least == least


@pytest.mark.parametrize("name", ["median+scaffold", "krum:2+fednova", "clip:1+qfedavg:2"])
def test_no_rule_goes_with_an_algorithm_that_combines_in_its_own_way(name: str) -> None:
    rule, _, algorithm = name.partition("+")
    with pytest.raises(SettingsError) as caught:
        strategy(name)
    reason = f"strategy '{name}': {algorithm} combines updates in its own way; leave out {rule}+"
    assert str(caught.value) == reason


def test_the_known_strategies_are_listed_for_an_unknown_name() -> None:
    for name in ("fedsgd", "", "fedsgd+fedavg", "median+krum:2", "median+", "+fedavg", "fedavg+fedavg", "x" * 999):
        with pytest.raises(
            SettingsError, match="unknown strategy '.{0,32}'; known: fedavg, fedavgm, fedprox"
        ) as caught:
            strategy(name)
        assert all(known in str(caught.value) for known in [*ALGORITHMS, *(form for form, _ in RULES.values())])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("krum", "strategy 'krum': write it as krum:BAD"),
        ("krum:", "write it as krum:BAD, BAD from 1 to 9999"),
        ("krum:0", "BAD from 1 to 9999"),
        ("krum:1.5", "BAD from 1 to 9999"),
        ("krum:1,2", "write it as krum:BAD"),
        ("krum:-1", "BAD from 1 to 9999"),
        ("multikrum:2", "write it as multikrum:BAD,KEPT"),
        ("multikrum:2,0", "KEPT from 1 to 9999"),
        ("median:1", "'median:1': write it as median"),
        ("trimmed:0.5", "SHARE from 0.0001 to 0.4999"),
        ("trimmed:0.00", "SHARE from 0.0001 to 0.4999"),
        ("trimmed:1", "SHARE from 0.0001 to 0.4999"),
        ("clip:0.0", "write it as clip:NORM, NORM above 0"),
        ("filter:inf+fedavg", "write it as filter:NORM, NORM above 0"),
        ("fedadam:0", "strategy 'fedadam:0': a server's rate is a number above 0; write fedadam:0.03"),
        ("median+fedavg:nan", "a server's rate is a number above 0; write fedavg:1"),
        ("fedavg:", "a server's rate is a number above 0"),
        ("fedavg:-1", "a server's rate is a number above 0"),
    ],
)
def test_numbers_that_are_none_are_refused(name: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        strategy(name)
    assert reason in str(caught.value)


def test_the_docs_have_a_line_for_each_with_its_rate_and_its_form() -> None:
    page = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
    written = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", page, re.M)
    rates = [(name, f"{made.number:g}") for name, made in ALGORITHMS.items()]
    assert written[: len(rates)] == rates
    rules = written[len(rates) : len(rates) + len(RULES)]  # tables of results come behind
    assert [form for form, _ in rules] == [form for form, _ in RULES.values()]
    examples = re.findall(r"^```\n(.*)\n```$", page, re.M)[0]
    assert len([strategy(name) for name in examples.split()]) == 8
