"""The aggregator's numbers for Prometheus: what is counted, under which names. `docs/operations.md` explains each."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime

from fedfleet.cloud.exposition import Histogram, Metric, Sample, by, gauge
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.fleet import Ended
from fedfleet.cloud.notes import Standing
from fedfleet.wire.messages import STATES, Status

SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)


class Meters:
    """Counts rounds as they end. No metric has a label for each device, so the page is as long for any fleet."""

    def __init__(self, newest: Ended | None = None, clock: Callable[[], float] = time.time) -> None:
        """`newest` is the round that made the model to go on from, `clock` gives seconds since 1970."""
        self._clock = clock
        self._seconds = Histogram(*SECONDS)
        self._rounds = {"closed": 0, "abandoned": 0}
        self._counted = self._refused = self._up = self._down = 0
        self._made = _seconds(newest.ended) if newest else 0.0
        self._loss: float | None = None
        known = newest.scores if newest else {}
        self._scores = {name: math.nan if value is None else value for name, value in known.items()}

    def round(self, record: RoundRecord) -> None:
        """Count a round that is over."""
        self._seconds.observe(record.seconds)
        self._rounds[record.state] += 1
        self._counted += record.reported
        self._refused += record.refused
        self._up += record.bytes_up
        self._down += record.bytes_down
        if record.state == "closed":
            self._made, self._loss = self._clock(), record.train_loss
        self._scores = record.scores or self._scores

    def metrics(self, now: Standing, statuses: Iterable[Status]) -> list[Metric]:
        """Return all metrics, with what the aggregator and its devices are doing `now`."""
        return [*self._counters(), *self._round(now), *_devices(now, statuses), *self._model()]

    def _counters(self) -> list[Metric]:
        updates = {"counted": self._counted, "refused": self._refused}
        moved = {"up": self._up, "down": self._down}
        return [
            by("fedfleet_rounds_total", "counter", "Rounds that ended, by how.", "state", self._rounds),
            self._seconds.metric("fedfleet_round_seconds", "How long rounds took, abandoned ones too."),
            by("fedfleet_updates_total", "counter", "Updates of rounds that ended.", "outcome", updates),
            by("fedfleet_bytes_total", "counter", "Bytes of updates, and of downloads.", "direction", moved),
        ]

    def _round(self, now: Standing) -> list[Metric]:
        part = {"called": now.called, "reported": now.reported, "declined": now.declined}
        info = Sample(1, {"fleet": now.fleet, "strategy": now.strategy})
        return [
            Metric("fedfleet_info", "gauge", "What is federated; always 1.", (info,)),
            gauge("fedfleet_round", "The number of the open round, or of the last.", now.round),
            by("fedfleet_round_devices", "gauge", "Devices in the open round, by their part.", "part", part),
            gauge("fedfleet_broker_up", "Whether the link to the broker is up.", not now.link),
        ]

    def _model(self) -> list[Metric]:
        """Return what is known of the newest model; nothing of what is not."""
        made = gauge("fedfleet_model_timestamp_seconds", "When the newest model was made, since 1970.", self._made)
        loss = gauge("fedfleet_train_loss", "Loss on the devices in the last round that closed.", self._loss or 0.0)
        scores = by("fedfleet_score", "gauge", "The newest model on held-out data.", "metric", self._scores)
        known = ((made, self._made > 0), (loss, self._loss is not None), (scores, bool(self._scores)))
        return [metric for metric, is_known in known if is_known]


def _seconds(moment: str) -> float:
    """Return seconds since 1970 of a time as the journal notes it; 0 for one that an older fedfleet did not note."""
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0


def _devices(now: Standing, statuses: Iterable[Status]) -> list[Metric]:
    states = Counter(status.state for status in statuses)
    return [
        by("fedfleet_devices", "gauge", "Devices known, by state.", "state", {name: states[name] for name in STATES}),
        gauge("fedfleet_devices_present", "Devices that a round may wait for.", now.present),
    ]
