"""What several worker processes have summed up, joined by their strategy's own all-reduce. TensorFlow is here."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.cloud.sums import Mean


def joined(mean: Mean, strategy: Any) -> Mean:
    """Return the mean of what all workers of a `MultiWorkerMirroredStrategy` have, the same on each of them.

    All call it, each with its own. It is `merge` over all workers; raises FrameError where the sum could leave int64.
    """
    here = mean.total, np.array([mean.examples, mean.bound], np.int64)
    replicas = max(1, strategy.num_replicas_in_sync // len(_workers(strategy)))

    def one(context: Any) -> Any:
        """The first replica of a worker brings what it has, the others nothing."""
        first = context.replica_id_in_sync_group % replicas == 0
        return tuple(tf.constant(part if first else np.zeros_like(part)) for part in here)

    brought = strategy.experimental_distribute_values_from_function(one)
    total, (examples, bound) = (
        np.array(strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None)) for part in brought
    )
    found = Mean.empty(total.size)
    found.merge(Mean(total, np.zeros(0), int(examples), int(bound)))
    return found


def _workers(strategy: Any) -> list[Any]:
    resolver = strategy.cluster_resolver
    return list(resolver.cluster_spec().as_dict().get("worker", ())) or [None] if resolver else [None]
