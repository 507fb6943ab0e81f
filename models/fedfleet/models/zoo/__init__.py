"""Models to start from, small enough for a board; the same seed gives the same initial weights.

`ZOO` lists them with what they are for; benchmarks, tests and documentation go through all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedfleet.models.zoo.activity import activity
from fedfleet.models.zoo.digits import digits
from fedfleet.models.zoo.keywords import keywords
from fedfleet.models.zoo.mnist import mnist
from fedfleet.models.zoo.photos import mobile, photos
from fedfleet.models.zoo.readings import readings
from fedfleet.models.zoo.tabular import tabular
from fedfleet.models.zoo.turbofan import turbofan
from fedfleet.models.zoo.vibration import vibration

__all__ = [
    "ZOO", "Ready", "activity", "digits", "keywords", "mnist", "mobile", "photos", "readings", "tabular", "turbofan",
    "vibration",
]  # fmt: skip
CROSS, SQUARE = "sparse_categorical_crossentropy", "mean_squared_error"


class Ready(NamedTuple):
    """A model of the zoo: `build(seed=0)` returns it, `loss` is what it trains on, `use` what it is for."""

    build: Callable[..., Any]
    loss: str
    use: str


def _rows(*, seed: int = 0) -> Any:
    """A tabular model of a usual size."""
    return tabular(16, 4, seed=seed)


ZOO: Mapping[str, Ready] = {
    "digits": Ready(digits, CROSS, "handwritten digits of 8 x 8 pixels"),
    "mnist": Ready(mnist, CROSS, "handwritten digits of 28 x 28 pixels"),
    "turbofan": Ready(turbofan, SQUARE, "how long a machine will still run"),
    "tabular": Ready(_rows, CROSS, "rows of features"),
    "activity": Ready(activity, CROSS, "what a person is doing, from inertial sensors"),
    "vibration": Ready(vibration, SQUARE, "whether a machine sounds as it always has"),
    "keywords": Ready(keywords, CROSS, "spoken words"),
    "readings": Ready(readings, CROSS, "what a series of readings means"),
    "photos": Ready(photos, CROSS, "photos, on a backbone that stays as it is"),
}
