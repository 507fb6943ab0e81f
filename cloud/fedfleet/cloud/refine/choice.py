"""Which of two models goes on: the one that the server's step made, or what refining made of it."""

from __future__ import annotations

import math

import numpy as np

from fedfleet.cloud.federation import Evaluate
from fedfleet.cloud.registry import worse
from fedfleet.wire.codecs import Weights


def chosen(before: Weights, after: Weights, gate: str, evaluate: Evaluate | None) -> tuple[bool, str]:
    """Return whether the refined weights `after` are to be taken, and why: by the metric `gate`, if there is one.

    Weights that are not finite are never taken.
    """
    if not np.isfinite(after).all():
        return False, "its weights are not finite: lower the learning_rate"
    if not gate or evaluate is None:
        return True, ""
    old, new = evaluate(before)[gate], evaluate(after)[gate]
    good = math.isfinite(new) and not (math.isfinite(old) and worse(new, old, gate))
    return good, f"{gate} {new:.4f}, {'not ' if good else ''}worse than {old:.4f} before"
