"""What an algorithm is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.servers import Moments, ServerOptimizer
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan


class Algorithm(NamedTuple):
    """What a strategy is besides its rule: what it makes of the plan, and its server; `number` is what a name may give.

    Where it says how updates are combined, no rule goes with it. `control` makes the server's control variate of the
    moments and the number of devices that have ever contributed; devices then answer with a second vector.
    """

    plan: Callable[[Plan], Plan]
    server: Callable[[float], ServerOptimizer]
    number: float
    combine: Callable[[float], Rule] | None = None
    control: Callable[[Moments, int], Weights] | None = None
    called: str = "a server's rate"
    most: float = 9999.999999


def as_given(plan: Plan) -> Plan:
    """Return the owner's plan."""
    return plan


def without(plan: Plan, name: str, *keys: str) -> Plan:
    """Return `plan` if it leaves `keys` alone; raises SettingsError that names the first which does not go."""
    for key in keys:
        if value := getattr(plan, key):
            off = "false" if value is True else "0"
            raise SettingsError(f"{name} does not go with {key}: set it to {off}, or choose another strategy")
    return plan
