"""Strategies as values: what the client does (`Plan`), how updates are combined, how the server steps.

A strategy is called [RULE+]ALGORITHM[:RATE], or by its rule alone, as in `fedadam:0.03`, `median` or `krum:2+fedavgm`:
an algorithm is one line in `ALGORITHMS`, a rule a file and one line in `RULES`. docs/strategies.md has all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from fedfleet.cloud.rules import RULES, mean, rule
from fedfleet.cloud.servers import ServerOptimizer, adagrad, adam, momentum, sgd, yogi
from fedfleet.cloud.sums import Aggregate
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan

RATE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


class Strategy(NamedTuple):
    """A federated algorithm: the plan it gives devices, an empty aggregate for P weights, the server's step.

    `least` is how many updates the aggregate must have before there is a value: no round closes with fewer.
    """

    plan: Callable[[Plan], Plan]
    aggregate: Callable[[int], Aggregate]
    server: ServerOptimizer
    least: int = 1


class Algorithm(NamedTuple):
    """What a strategy is besides its rule; `rate` is the server's where the name gives none."""

    plan: Callable[[Plan], Plan]
    server: Callable[[float], ServerOptimizer]
    rate: float


def _as_given(plan: Plan) -> Plan:
    return plan


def _proximal(plan: Plan) -> Plan:
    """FedProx (Li et al. 2020): keep local models near the global one, by mu 0.01 where the plan names none."""
    return replace(plan, proximal=plan.proximal or 0.01)


ALGORITHMS = {
    "fedavg": Algorithm(_as_given, sgd, 1.0),
    "fedavgm": Algorithm(_as_given, momentum, 1.0),
    "fedprox": Algorithm(_proximal, sgd, 1.0),
    "fedadam": Algorithm(_as_given, adam, 0.03),
    "fedyogi": Algorithm(_as_given, yogi, 0.03),
    "fedadagrad": Algorithm(_as_given, adagrad, 0.03),
}


def strategy(name: str) -> Strategy:
    """Return the strategy called `name`; raises SettingsError that lists the known ones, or says what is wrong."""
    first, plus, second = name.partition("+")
    if first.partition(":")[0] not in RULES:
        first, plus, second = "", "", name
    if (plus or not first) and second.partition(":")[0] not in ALGORITHMS:
        forms = ", ".join(form for form, _ in RULES.values())
        known = f"known: {', '.join(ALGORITHMS)}, alone, with :RATE behind, or with a rule and + before: {forms}"
        raise SettingsError(f"unknown strategy {name[:32]!r}; {known}")
    plan, server = _algorithm(second or "fedavg")
    combine = rule(first) if first else mean()
    return Strategy(plan, combine.aggregate, server, combine.least)


def algorithm(name: str) -> str:
    """Return by which algorithm the strategy called `name` steps, without its rule and its rate."""
    first, _, second = name.partition("+")
    return (second if first.partition(":")[0] in RULES else name).partition(":")[0] or "fedavg"


def _algorithm(text: str) -> tuple[Callable[[Plan], Plan], ServerOptimizer]:
    """Return what `NAME[:RATE]` does to the plan, and its server; raises SettingsError."""
    name, colon, digits = text.partition(":")
    found = ALGORITHMS[name]
    rate = found.rate if not colon else float(digits) if RATE.fullmatch(digits) else 0.0
    if rate <= 0:
        raise SettingsError(f"strategy {text[:32]!r}: a server's rate is a number above 0; write {name}:{found.rate:g}")
    return found.plan, found.server(rate)
