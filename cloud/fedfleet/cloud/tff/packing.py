"""The state of a TFF process as rows of moments, so that the journal keeps it: float64 holds all of its numbers.

Texts in it, as the names of privacy events, are what `initialize` made them; they are not packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfleet.wire.errors import SettingsError

Numbers = NDArray[np.float64]


def packed(leaves: Sequence[Any]) -> Numbers:
    """Return all numbers in `leaves`, one after the other; raises SettingsError for one that float64 does not hold."""
    numbers = [np.asarray(leaf).reshape(-1) for leaf in leaves if numeric(leaf)]
    found = [part.astype(np.float64) for part in numbers]
    for part, wide in zip(numbers, found):
        if not np.array_equal(wide.astype(part.dtype), part, equal_nan=part.dtype.kind == "f"):
            raise SettingsError("its state has whole numbers that are too large to be kept from round to round")
    return np.concatenate([np.zeros(0), *found])


def unpacked(numbers: Numbers, leaves: Sequence[Any]) -> list[Any]:
    """Return `leaves` with the numbers that `packed` made of others like them."""
    found, at = [], 0
    for leaf in leaves:
        like = np.asarray(leaf)
        if not numeric(leaf):
            found.append(leaf)
            continue
        found.append(numbers[at : at + like.size].astype(like.dtype).reshape(like.shape))
        at += like.size
    return found


def numeric(leaf: Any) -> bool:
    """Whether a leaf of a state is made of numbers, or of true and false."""
    return np.asarray(leaf).dtype.kind in "fiub"


def rows(numbers: Numbers, parameters: int) -> Numbers:
    """Return `numbers` as moments, float64[as many as it takes, P], filled up with zeros."""
    count = -(-numbers.size // parameters)
    return np.pad(numbers, (0, count * parameters - numbers.size)).reshape(count, parameters)
