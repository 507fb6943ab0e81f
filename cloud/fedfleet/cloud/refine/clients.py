"""The models of a round's devices, out of the journal: what they began with, and how far each moved it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedfleet.cloud.journal import Journal
from fedfleet.wire.codecs import Weights, grow
from fedfleet.wire.messages import Task


def clients(journal: Journal, task: Task, values: int) -> Iterator[Weights]:
    """Yield the model of each device that the round of `task` has counted, by device ids; updates have `values` values.

    What an update holds beyond the weights is left out, and so are those for earlier rounds, which began with other
    weights. Raises StoreError.
    """
    before = np.frombuffer(journal.blobs.get(task.weights.digest), "<f4").astype(np.float32)
    for update in journal.updates(task.round):
        if update.round == task.round:
            yield before + grow(update.codec, update.delta, values)[: before.size]
