"""Combining updates on the replicas of a `tf.distribute` strategy: the bits of the one-process fold, by more hands.

TensorFlow is loaded where replicas are asked for, and nowhere before.
"""

from __future__ import annotations

from fedfleet.cloud.combine.spread import Pool, spread
from fedfleet.cloud.strategies import Strategy

ALL = -1  # replicas: all GPUs, or one CPU where there is none


def combined(strategy: Strategy, replicas: int) -> Strategy:
    """Return `strategy` with aggregates that work on so many replicas, ALL for all GPUs; as it is for 0.

    Raises SettingsError where there are fewer. Parts of a CPU can be had only before TensorFlow computes anything.
    """
    if replicas == 0:
        return strategy
    pool = pooled(replicas)
    return strategy._replace(aggregate=lambda values: spread(strategy.aggregate(values), pool))


def pooled(replicas: int) -> Pool:
    """Return so many replicas, ALL for all GPUs; raises SettingsError where there are fewer."""
    from fedfleet.cloud.combine import pool
    from fedfleet.cloud.replicas import mirrored

    return pool.Replicas(mirrored(0 if replicas == ALL else replicas))
