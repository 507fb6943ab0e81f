"""Federated evaluation: what the devices made of a model on their own examples, from nothing but sums and counts.

A round's devices evaluate the weights that they begin with, so what they say is of the model before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fedfleet.cloud.rounds import Counted
from fedfleet.wire.messages import MAX_ROUND, Update

SCORES = ("accuracy", "rmse", "mae", "loss")  # all that a model may be judged by
PERCENTILES = (5, 25, 50, 75, 95)
MOST = 2.0**40  # beyond that the mean loss or error over a device's examples is absurd
ROUNDING = 1 + 1e-5  # of a float32 mean over an example's outputs
LOSS, METRIC, COUNT = "eval_loss", "eval_metric", "eval_examples"


@dataclass(frozen=True)
class Measure:
    """What a program's metric is: `accuracy`, `rmse` or `mae`; errors are times `scale`, for natural units."""

    name: str = "accuracy"
    scale: float = 1.0

    def of(self, mean: float) -> float:
        """Return what a mean over examples comes to."""
        scores = {"accuracy": mean, "mae": self.scale * mean, "rmse": self.scale * math.sqrt(max(mean, 0.0))}
        return scores[self.name]


@dataclass(frozen=True)
class Federated:
    """What devices made of the model of round `of`, 0 for what the federation began with.

    `scores` are over all their examples together; `spread` has for each score the percentiles across devices, each
    device counting once: `p5` to `p95`. `left_out` counts devices whose word was no number, or absurd.
    """

    of: int
    devices: int
    examples: int
    left_out: int
    scores: dict[str, float] = field(default_factory=dict)
    spread: dict[str, dict[str, float]] = field(default_factory=dict)


class Claim(NamedTuple):
    """What one device says: sums over so many examples."""

    loss: float
    metric: float
    examples: int


def federated(updates: Iterable[Update | Counted], of: int, measure: Measure) -> Federated | None:
    """Return what `updates` say of the model of round `of`, in whatever order they come; None if none says anything."""
    said = [update.metrics for update in updates if COUNT in update.metrics]
    claims = [one for one in (claim(metrics, measure) for metrics in said) if one is not None]
    if not said:
        return None
    total, scores, spread = sum(one.examples for one in claims), dict[str, float](), dict[str, dict[str, float]]()
    for name, value, sums in (
        ("loss", float, [one.loss for one in claims]),
        (measure.name, measure.of, [one.metric for one in claims]),
    ):
        if claims:
            scores[name] = value(math.fsum(sums) / total)
            spread[name] = percentiles([value(each / one.examples) for each, one in zip(sums, claims)])
    return Federated(of, len(claims), total, len(said) - len(claims), scores, spread)


def claim(metrics: Mapping[str, float], measure: Measure) -> Claim | None:
    """Return what a device says, or None where that cannot be: no number, a negative one, more right than examples."""
    loss, metric, count = (metrics.get(name, math.nan) for name in (LOSS, METRIC, COUNT))
    if not (1 <= count <= MAX_ROUND and count == int(count)):
        return None
    most = (ROUNDING if measure.name == "accuracy" else MOST) * count
    if not (0 <= loss <= MOST * count and 0 <= metric <= most):
        return None
    return Claim(loss, min(metric, count) if measure.name == "accuracy" else metric, int(count))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the PERCENTILES of `values`, at least one, straight lines between neighbours (Hyndman and Fan 1996, 7)."""
    ranked = sorted(values)
    return {f"p{part}": _between(ranked, (len(ranked) - 1) * part / 100) for part in PERCENTILES}


def _between(ranked: Sequence[float], place: float) -> float:
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def told(found: Federated) -> str:
    """Return all of it in a line."""
    spread = {name: [f"{part} {value:.4f}" for part, value in each.items()] for name, each in found.spread.items()}
    scores = [f"{name} {mean:.4f} ({', '.join(spread.get(name, []))})" for name, mean in found.scores.items()]
    out = f", {found.left_out} left out" if found.left_out else ""
    return f"{', '.join(scores) or 'no metrics'}; {found.devices} devices, {found.examples:,} examples{out}"


def brief(found: Federated) -> str:
    """Return its score in a few words, the loss where there is no other: the mean, and from the 5th to the 95th."""
    if not found.scores:
        return "no metrics"
    name, mean = list(found.scores.items())[-1]
    spread = found.spread.get(name, {})
    return f"{name} {mean:.4f}" + (f" ({spread['p5']:.4f} to {spread['p95']:.4f})" if spread else "")
