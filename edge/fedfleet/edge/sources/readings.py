"""Sensors' JSON over MQTT, windowed. A window that is not full yet is lost when the device stops.

The time of a reading is that of its arrival by the monotonic clock: sensors' own clocks differ, and the board's may not
be set. What is no reading is counted by reason, told once a minute, and dropped.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedfleet.edge.data import Store
from fedfleet.edge.sources.settings import Readings
from fedfleet.wire.bus import Bus, Delivery
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import INT32_MAX, Examples
from fedfleet.wire.tables import FLOAT32_MAX

log = logging.getLogger("fedfleet.collect")
MAX_PAYLOAD = 64 * 1024
MAX_SENSORS = 256
MAX_WAITING = 4 * 2**20  # bytes of windows that wait in memory for a disk that refuses
TELL, RETRY = 60.0, 15.0  # seconds
BATCHES = 16  # of deliveries in one go


@dataclass
class Series:
    """One sensor's newest readings, fewer than a window, and when the last one came."""

    rows: list[list[float]] = field(default_factory=list)
    last: float = -math.inf


class ReadingsSource:
    """The sensors of one topic."""

    def __init__(
        self, settings: Readings, connect: Callable[[], Bus], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read over the bus that `connect` returns, which is asked for at the first poll and may raise BusDown."""
        self._settings = settings
        self._connect = connect
        self._clock = clock
        self._bus: Bus | None = None
        self._tried = -math.inf
        self._series: dict[str, Series] = {}
        self._label: int | None = None
        self._waiting: list[tuple[list[list[float]], int | None]] = []
        self.dropped: Counter[str] = Counter()
        self._told, self._told_at = 0, -math.inf

    def poll(self, store: Store) -> int:
        """Store the windows that the readings since the last call have filled."""
        for _ in range(BATCHES):
            deliveries = self._bus.deliveries(0) if self._bus else self._begin()
            if not deliveries:
                break
            for topic, payload in deliveries:
                self._hear(topic, payload)
        self._tell()
        return self._flush(store)

    def _begin(self) -> list[Delivery]:
        """Connect and subscribe, if the last attempt was not just now. Raises BusDown."""
        if self._clock() - self._tried < RETRY:
            return []
        self._tried = self._clock()
        self._bus = self._connect()
        if self._settings.label_topic:
            self._bus.subscribe(self._settings.label_topic)
        self._bus.subscribe(self._settings.topic)
        return self._bus.deliveries(0)

    def _hear(self, topic: str, payload: bytes) -> None:
        try:
            if topic == self._settings.label_topic:
                self._relabel(payload)
            else:
                self._read(topic, payload)
        except DataError as error:
            self.dropped[str(error)] += 1

    def _relabel(self, payload: bytes) -> None:
        """Let the windows from now on have another class; none while what was said is no class."""
        label, self._label = self._label, None
        try:
            if payload:
                self._label = _class(_number(_json(payload), self._settings.label_field))
        finally:
            if self._label != label:
                self._series.clear()

    def _read(self, topic: str, payload: bytes) -> None:
        """Add a reading to its sensor's series, and take the window that it fills."""
        settings = self._settings
        said = _json(payload)
        row = [_number(said, path) for path in settings.fields]
        if topic not in self._series and len(self._series) >= MAX_SENSORS:
            raise DataError(f"of more than {MAX_SENSORS} sensors")
        series = self._series.setdefault(topic, Series())
        now = self._clock()
        if now - series.last > settings.max_gap:
            series.rows.clear()
        series.last = now
        series.rows.append(row)
        if len(series.rows) == settings.window:
            self._take(list(series.rows))
            del series.rows[: settings.stride or settings.window]

    def _take(self, rows: list[list[float]]) -> None:
        if self._label is None and self._settings.label_topic:
            raise DataError("in windows without a class")
        size = 4 * self._settings.window * len(self._settings.fields)
        if len(self._waiting) >= max(MAX_WAITING // size, 1):
            self._waiting.pop(0)
            self.dropped["in windows for which the disk had no room"] += 1
        self._waiting.append((rows, self._label))

    def _flush(self, store: Store) -> int:
        """Append the windows that wait; after a StoreError they wait on."""
        if not self._waiting:
            return 0
        x = np.array([rows for rows, _ in self._waiting], np.float32)
        if self._settings.label_topic:
            examples = Examples(x, np.array([label for _, label in self._waiting], np.int32))
        else:
            examples = Examples(x, x.reshape(len(x), -1))
        try:
            store.append(examples)
        except DataError:
            self._waiting.clear()
            raise
        self._waiting.clear()
        return len(x)

    def _tell(self) -> None:
        total, now = self.dropped.total(), self._clock()
        if total > self._told and now - self._told_at >= TELL:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common(5))
            log.warning("messages on %s dropped so far: %s", self._settings.topic, reasons)
            self._told, self._told_at = total, now


def _json(payload: bytes) -> Any:
    """What a payload says; raises DataError."""
    if len(payload) > MAX_PAYLOAD:
        raise DataError(f"of more than {MAX_PAYLOAD} bytes")
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        raise DataError("that are not JSON") from None


def _number(said: Any, path: str) -> float:
    """The number at a dotted path, which may be a switch's true or false; raises DataError."""
    for key in _keys(path):
        if not isinstance(said, dict) or key not in said:
            raise DataError(f"without {path}")
        said = said[key]
    if not isinstance(said, (int, float)):
        raise DataError(f"with {path or 'something'} that is no number")
    if not abs(said) <= FLOAT32_MAX:
        raise DataError(f"with {path or 'a number'} that is not finite in 32 bits")
    return float(said)


def _keys(path: str) -> Iterator[str]:
    return (key for key in path.split(".") if key)


def _class(value: float) -> int:
    if not 0 <= value <= INT32_MAX or value != math.floor(value):
        raise DataError("that name no class")
    return int(value)
