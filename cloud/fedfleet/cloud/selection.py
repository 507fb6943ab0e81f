"""Whom the next round calls: how large its window on the laps must be, for those that are there and fit."""

from __future__ import annotations

import math
from collections.abc import Collection
from heapq import nsmallest
from itertools import islice

from fedfleet.cloud.settings import Rounds
from fedfleet.wire.calling import LAP, ahead
from fedfleet.wire.messages import Task


def window(rounds: Rounds, quorum: int, before: Task | None, fit: Collection[str]) -> tuple[int, float]:
    """Return `start` and `share` of the task after `before`; `fit` are the devices that are there and may be called.

    It calls of them as many as a cohort takes, `over` times those that are wanted (Bonawitz et al. 2019);
    or those in a fixed share, and a quorum in any case. Where there are not so many, everyone who may come is called.
    """
    start = before.next_start if before else 0
    least, width = wanted(rounds, quorum), 0
    if not rounds.cohort:
        least, width = min(quorum, len(fit)), max(round(rounds.share * LAP), 1)
    if width >= LAP or least > len(fit):
        return start, 1.0
    called = (device for device in fit if ahead(start, device) < width)
    if sum(1 for _ in islice(called, least)) < least:
        width = max(nsmallest(least, (ahead(start, device) for device in fit))) + 1
    return start, min(width / LAP, 1.0)


def wanted(rounds: Rounds, quorum: int) -> int:
    """Return how many devices are to be called for the updates that `rounds` want; 0 where they want all they get."""
    return math.ceil(round(target(rounds, quorum) * rounds.over, 6)) if rounds.cohort else 0


def target(rounds: Rounds, quorum: int) -> int:
    """Return with how many updates a round is full, no fewer than its quorum; 0 where it takes all that come."""
    full = rounds.cohort or rounds.buffer
    return max(full, quorum) if full else 0
