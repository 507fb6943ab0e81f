"""The way down: what changed since the weights that devices have, encoded; the whole for those who lack them.

What is published follows the exact model: p' = p + grow(shrink(w - p)). What a codec loses of one round is in the next
difference again, so nothing drifts (the server side of DoubleSqueeze, Tang et al. 2019, section 3). Sum and difference
are of float32, so a device comes to the same bits, and the digest says so.
"""

from __future__ import annotations

import numpy as np

from fedfleet.cloud.journal import Journal
from fedfleet.cloud.servers import Moments
from fedfleet.cloud.strategies import Strategy
from fedfleet.wire.codecs import Weights, grow, shrink
from fedfleet.wire.messages import MAX_ABANDONED, Blob, Control, Patch, Task


def published(
    journal: Journal, weights: Weights, last: Task | None, codec: str, round_: int
) -> tuple[Blob, Patch | None]:
    """Put into `journal` what devices start `round_` from, and the way there from the weights of the `last` task.

    No way where there is no codec or no last task of this model, or where the model was rolled back since then; then
    the weights are published as they are.
    """
    model = journal.model()
    rolled_back = last is not None and model is not None and model.round > last.round
    if not codec or last is None or last.weights.size != 4 * weights.size or rolled_back:
        return journal.blobs.put(weights.astype("<f4").tobytes()), None
    before = np.frombuffer(journal.blobs.get(last.weights.digest), "<f4").astype(np.float32)
    data = shrink(codec, weights - before, round_)
    after = before + grow(codec, data, weights.size)
    return journal.blobs.put(after.astype("<f4").tobytes()), Patch(last.weights.digest, codec, journal.blobs.put(data))


def controlled(journal: Journal, strategy: Strategy, moments: Moments, round_: int) -> Control | None:
    """Put into `journal` the control that devices correct their steps of `round_` by, where the strategy has one."""
    if strategy.control is None:
        return None
    first, abandoned = journal.lineage(MAX_ABANDONED)
    control = strategy.control(moments, journal.contributors(first))
    return Control(journal.blobs.put(control.astype("<f4").tobytes()), first or round_, abandoned)
