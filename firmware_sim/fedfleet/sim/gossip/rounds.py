"""What a round of gossip came to, from what each device noted on its own disk; nobody asks them over the network.

There is no global model. What is scored is the mean of all devices' models (the consensus, which no device holds), the
worst device's own model, and how far the devices are apart: the root mean square over devices of their distance to the
mean, relative to the mean's length (Lian et al. 2017 bound its square).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from fedfleet.cloud.federation import Evaluate, RoundRecord
from fedfleet.sim.gossip.peer import Entry
from fedfleet.wire import files
from fedfleet.wire.codecs import Weights
from fedfleet.wire.messages import Blob
from fedfleet.wire.record import build

DISTANCE = "distance"


class Notes:
    """Reads the notes of `devices`, whose folders are below `folder`, round by round."""

    def __init__(self, folder: Path, devices: Sequence[str], score: Evaluate, metric: str) -> None:
        """`score` is for any device's weights, `metric` the name of what counts in it."""
        self.round = 1
        self.weights: Weights = np.zeros(0, np.float32)
        self._folder = folder
        self._devices = devices
        self._score = score
        self._metric = metric
        self._since = time.time()
        self._moved = dict.fromkeys(devices, (0, 0))

    def there(self) -> list[str]:
        """The devices that have finished the round, in order."""
        return [device for device in self._devices if self._path(device, "json").exists()]

    def over(self, ended: Collection[str]) -> RoundRecord | None:
        """What the round was, if all have finished it but those that have `ended`; then the next one is looked at.

        None as well where nobody has finished it.
        """
        there = self.there()
        if not there or set(self._devices) - set(there) - set(ended):
            return None
        entries = {device: self._entry(device) for device in there}
        scores = self._scores(there)
        until = max(self._path(device, "json").stat().st_mtime for device in there)
        record = self._record(entries, scores, max(until - self._since, 0.0))
        for device in there:
            self._moved[device] = entries[device].sent, entries[device].received
        for device in self._devices:
            files.remove(self._folder / device / f"{self.round - 1}.weights")
        self.round += 1
        self._since = until
        return record

    def _record(self, entries: dict[str, Entry], scores: dict[str, float], seconds: float) -> RoundRecord:
        found = entries.values()
        examples = sum(entry.examples for entry in found)
        return RoundRecord(
            round=self.round,
            state="closed",
            reason=_reason(entries, len(self._devices)),
            called=len(self._devices),
            reported=len(entries),
            late=len(self._devices) - len(entries),
            examples=examples,
            train_loss=sum(entry.loss * entry.examples for entry in found) / max(examples, 1),
            bytes_up=sum(entry.sent - self._moved[device][0] for device, entry in entries.items()),
            bytes_down=sum(entry.received - self._moved[device][1] for device, entry in entries.items()),
            seconds=seconds,
            weights=Blob.of(self.weights.astype("<f4").tobytes()).digest,
            device_rss_mib=max(entry.rss_mib for entry in found),
            scores=scores,
        )

    def _scores(self, there: Sequence[str]) -> dict[str, float]:
        """The scores of the mean, of the worst device and of the mean device, and the distance."""
        total = sum((self._weights(device).astype(np.float64) for device in there), np.zeros(1))
        mean = total / len(there)
        self.weights = mean.astype(np.float32)
        single, square = [], 0.0
        for device in there:
            weights = self._weights(device)
            single.append(self._score(weights)[self._metric])
            square += float(np.sum((weights - mean) ** 2))
        worst = min if self._metric == "accuracy" else max
        distance = math.sqrt(square / len(there)) / (float(np.linalg.norm(mean)) or 1.0)
        return self._score(self.weights) | {
            f"worst_{self._metric}": worst(single),
            f"mean_{self._metric}": sum(single) / len(single),
            DISTANCE: distance,
        }

    def _path(self, device: str, kind: str) -> Path:
        return self._folder / device / f"{self.round}.{kind}"

    def _weights(self, device: str) -> Weights:
        return np.frombuffer(self._path(device, "weights").read_bytes(), "<f4").astype(np.float32)

    def _entry(self, device: str) -> Entry:
        return build(Entry, json.loads(self._path(device, "json").read_bytes()), strict=True)


def lopsided(entries: dict[str, Entry]) -> list[str]:
    """The pairs of which one mixed the other's model and was not mixed in turn: there the matrix is not symmetric."""
    return [
        f"{one}<-{other}"
        for one, entry in entries.items()
        for other in entry.mixed
        if other in entries and one not in entries[other].mixed
    ]


def _reason(entries: dict[str, Entry], devices: int) -> str:
    """How the round ended, for people: who took part, who still mixed the model of one that ended, who did unevenly."""
    uneven = lopsided(entries)
    text = f"{len(entries)} of {devices} mixed"
    return f"{text}; unevenly: {', '.join(uneven[:4])}" if uneven else text
