"""Strategies as values: what the client does (`Plan`), how updates are combined, how the server steps.

A strategy is called [RULE+]ALGORITHM[:RATE], or by its rule alone, as in `fedadam:0.03`, `median` or `krum:2+fedavgm`:
an algorithm is one line in `ALGORITHMS`, a rule a file and one line in `RULES`. docs/strategies.md has all of them, and
docs/tff.md those of TensorFlow Federated. Algorithms that combine updates in a way of their own go without a rule, and
refuse plans that they do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedfleet.cloud.algorithms import ALGORITHMS, Algorithm
from fedfleet.cloud.rules import RULES, mean, rule
from fedfleet.cloud.rules.rule import Memory
from fedfleet.cloud.servers import Moments, ServerOptimizer
from fedfleet.cloud.sums import Aggregate
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan

__all__ = ["ALGORITHMS", "Strategy", "outdated", "parts", "ruled", "strategy"]

TFF = re.compile(r"(tff:[^(+]*(?:\([^)]*\))?)(?:(\+)(.*))?", re.DOTALL)  # a plus in its brackets is none of ours
RATE = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


class Strategy(NamedTuple):
    """A federated algorithm: the plan it gives devices, an empty aggregate for updates of so many values, the step.

    `least` is how many updates the aggregate must have before there is a value: no round closes with fewer. `plan`
    raises SettingsError where the owner's does not go with it. `control` is that of `Algorithm`. `mean`: updates are
    combined by their mean, no other way. `memory` is that of `Rule`; it lies behind the server's moments.
    """

    plan: Callable[[Plan], Plan]
    aggregate: Callable[[int], Aggregate]
    server: ServerOptimizer
    least: int = 1
    control: Callable[[Moments, int], Weights] | None = None
    mean: bool = False
    memory: Memory | None = None

    def values(self, parameters: int) -> int:
        """Return how many values an update of `parameters` weights has."""
        return parameters * (2 if self.control else 1)

    def moments(self, parameters: int) -> Moments:
        """Return what stands before the first round, float64[moments, P]; SettingsError where P weights do not fit."""
        moments = self.server.moments(parameters)
        return moments if self.memory is None else np.concatenate([moments, self.memory.start(parameters)])

    def step(self, weights: Weights, aggregate: Aggregate, moments: Moments) -> tuple[Weights, Moments]:
        """Return the model and the moments after the round of `aggregate`, by those before it."""
        if self.memory is None:
            return self.server.step(weights, aggregate.value(), moments)
        own = len(self.server.start)
        difference, kept = self.memory.value(aggregate, moments[own:])
        after, moments = self.server.step(weights, difference, moments[:own])
        return after, np.concatenate([moments, kept])


def strategy(name: str, base: Path = Path()) -> Strategy:
    """Return the strategy called `name`; raises SettingsError that lists the known ones, or says what is wrong.

    A file of the user's in it is relative to `base`.
    """
    first, second = parts(name)
    found, number = _algorithm(second)
    if first and found.combine:
        raise SettingsError(
            f"strategy {name[:32]!r}: {second[:32]} combines updates in its own way; leave out {first}+"
        )
    combine = rule(first, base) if first else found.combine(number) if found.combine else mean()
    plain = not first and not found.combine
    server, memory = found.server(number), combine.memory
    return Strategy(found.plan, combine.aggregate, server, combine.least, found.control, plain, memory)


def parts(name: str) -> tuple[str, str]:
    """Return the rule and the algorithm of the strategy called `name`, as they are written; the rule may be empty."""
    first, second = _split(name)
    if second.partition(":")[0] not in ALGORITHMS:
        forms = ", ".join(form for form, _ in RULES.values())
        known = f"known: {', '.join(ALGORITHMS)}, alone, with :RATE behind, or with a rule and + before: {forms}"
        raise SettingsError(f"unknown strategy {name[:32]!r}; {known}")
    return first, second


def outdated(name: str, staleness: int) -> None:
    """Raise SettingsError unless updates may be up to `staleness` rounds old with the strategy called `name`."""
    if staleness and not strategy(name).mean:
        known = ", ".join(name for name, found in ALGORITHMS.items() if not found.combine)
        raise SettingsError(f"updates of earlier rounds go into a mean alone, not {name[:32]}: choose one of {known}")


def algorithm(name: str) -> str:
    """Return by which algorithm the strategy called `name` steps, without its number, or a rule that has no memory."""
    first, second = _split(name)
    return f"{first if TFF.fullmatch(first) else ''}+{second.partition(':')[0]}"


def ruled(name: str) -> bool:
    """Whether the strategy called `name` combines updates by one of the RULES."""
    return bool(_split(name)[0])


def _split(name: str) -> tuple[str, str]:
    """Return what stands for the rule in `name`, and what for the algorithm, whether there is such a one or not."""
    found = TFF.fullmatch(name)
    rule, plus, rest = (found[1], found[2], found[3]) if found else name.partition("+")
    if rule.partition(":")[0] not in RULES:
        return "", name
    return rule, rest if plus else "fedavg"


def _algorithm(text: str) -> tuple[Algorithm, float]:
    """Return the algorithm of `NAME[:NUMBER]` and the number; raises SettingsError."""
    name, colon, digits = text.partition(":")
    found = ALGORITHMS[name]
    number = found.number if not colon else float(digits) if RATE.fullmatch(digits) else 0.0
    if not 0 < number <= found.most:
        most = f" and at most {found.most:g}" if found.most < 9999 else ""
        write = f"write {name}:{found.number:g}"
        raise SettingsError(f"strategy {text[:32]!r}: {found.called} is a number above 0{most}; {write}")
    return found, number
