"""The algorithms by name; those that are more than a plan and a server have a file of their own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fedfleet.cloud.algorithms.algorithm import Algorithm, as_given
from fedfleet.cloud.algorithms.fednova import FEDNOVA
from fedfleet.cloud.algorithms.qfedavg import QFEDAVG
from fedfleet.cloud.algorithms.scaffold import SCAFFOLD
from fedfleet.cloud.servers import adagrad, adam, momentum, sgd, yogi
from fedfleet.cloud.tff.stepping import stepping
from fedfleet.wire.messages import Plan

__all__ = ["ALGORITHMS", "Algorithm"]


def _proximal(plan: Plan) -> Plan:
    """FedProx (Li et al. 2020): keep local models near the global one, by mu 0.01 where the plan names none."""
    return replace(plan, proximal=plan.proximal or 0.01)


ALGORITHMS = {
    "fedavg": Algorithm(as_given, sgd, 1.0),
    "fedavgm": Algorithm(as_given, momentum, 1.0),
    "fedprox": Algorithm(_proximal, sgd, 1.0),
    "fedadam": Algorithm(as_given, adam, 0.03),
    "fedyogi": Algorithm(as_given, yogi, 0.03),
    "fedadagrad": Algorithm(as_given, adagrad, 0.03),
    "scaffold": SCAFFOLD,
    "fednova": FEDNOVA,
    "qfedavg": QFEDAVG,
    "tff.sgdm": Algorithm(as_given, partial(stepping, "tff.sgdm"), 1.0),
    "tff.adagrad": Algorithm(as_given, partial(stepping, "tff.adagrad"), 0.03),
    "tff.adam": Algorithm(as_given, partial(stepping, "tff.adam"), 0.03),
    "tff.adamw": Algorithm(as_given, partial(stepping, "tff.adamw"), 0.03),
    "tff.rmsprop": Algorithm(as_given, partial(stepping, "tff.rmsprop"), 0.03),
    "tff.yogi": Algorithm(as_given, partial(stepping, "tff.yogi"), 0.03),
}
