"""The examples that a device never trains on, and what it says of a model by them: two sums and a count, no more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedfleet.edge.data import Batch
from fedfleet.edge.runtime import Program
from fedfleet.edge.segments import checksums
from fedfleet.edge.trainer import Stop
from fedfleet.wire.errors import DataError

Index = npt.NDArray[np.int64]
LOSS, METRIC, COUNT = "eval_loss", "eval_metric", "eval_examples"


class Divide(NamedTuple):
    """Where the examples lie that are trained on, and those that are held back for evaluation, counted through all."""

    learned: Index
    held: Index


def divided(parts: Sequence[npt.NDArray[np.void]], share: float) -> Divide:
    """Return where the examples lie that are trained on, and those that are held back, about a `share` of all; 0 for
    all, twice.

    An example is held back if the CRC-32 of its bytes is below `share` of 2^32: wherever it lies, whatever came before
    it and in every round alike; equal ones are together, and a greater share holds back what a smaller one does. Raises
    DataError where nothing is left to train on.
    """
    if share == 0:
        everything = np.arange(sum(map(len, parts)))
        return Divide(everything, everything)
    found = [np.array(checksums(part), np.uint32) for part in parts]
    held = np.concatenate(found) < share * 2**32 if found else np.zeros(0, np.bool_)
    if held.all():
        raise DataError(f"all {len(held)} examples are held back by the plan's holdout of {share:g}: collect some more")
    return Divide(np.flatnonzero(~held), np.flatnonzero(held))


def examined(program: Program, batches: Iterable[Batch], stop: Stop) -> dict[str, float] | None:
    """Return the sums of loss and metric over `batches` with the weights as they are, and how many examples; None if
    stopped.

    Nothing where there are no examples. A sum that is no number is left out: the count alone then tells of it.
    """
    sums = {LOSS: 0.0, METRIC: 0.0, COUNT: 0.0}
    for batch in batches:
        if stop():
            return None
        found = program.evaluate(x=batch.x, y=batch.y, weight=batch.weight)
        for name, value in zip(sums, found):
            sums[name] += value
    return {name: value for name, value in sums.items() if math.isfinite(value)} if sums[COUNT] else {}
