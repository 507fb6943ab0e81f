"""Readings over MQTT: what sensors publish becomes windows, and what is no reading is counted and dropped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brokers import KINDS
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.edge.collect import connect
from fedfleet.edge.data import Store
from fedfleet.edge.sources import readings
from fedfleet.edge.sources.readings import ReadingsSource
from fedfleet.edge.sources.settings import Readings
from fedfleet.sim.brokers import running
from fedfleet.wire.errors import BusDown, DataError, StoreError
from fedfleet.wire.loopback import Hub, LoopbackBus
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

TOPIC = "zigbee2mqtt/+"
KITCHEN = "zigbee2mqtt/kitchen"
LABEL = "house/state"
TASMOTA = {"Time": "2026-11-22T10:00:00", "AM2301": {"Temperature": 21.5, "Humidity": 40}, "TempUnit": "C"}


class Board:
    """A source over a loopback, with a clock set by hand."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.hub = Hub()
        self.bus = self.hub.connect()
        self.now = 0.0
        self.store = Store.open(root / "examples", 2**20, 2**12)
        known = {"topic": TOPIC, "fields": ("temperature",), "window": 4, "label_topic": LABEL} | settings
        self.source = ReadingsSource(Readings(**known), self.connect, lambda: self.now)
        self.attempts = 0
        self.poll()

    def connect(self) -> LoopbackBus:
        self.attempts += 1
        return self.hub.connect()

    def poll(self) -> int:
        return self.source.poll(self.store)

    def say(self, *values: Any, topic: str = KITCHEN, label: Any = None) -> int:
        """Publish a label and readings, ten seconds apart; how many windows that fills."""
        count = 0
        if label is not None:
            self.bus.publish(LABEL, json.dumps(label).encode())
        for value in values:
            payload = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.bus.publish(topic, payload)
            self.now += 10.0
            count += self.poll()
        return count

    def degrees(self, *values: float, **named: Any) -> int:
        return self.say(*({"temperature": value, "linkquality": 87} for value in values), **named)

    def windows(self) -> list[list[float]]:
        """The first field of each window."""
        return self.store.arrays().x[:, :, 0].tolist() if len(self.store) else []  # type: ignore[no-any-return]

    def labels(self) -> list[int]:
        return self.store.arrays().y.tolist() if len(self.store) else []  # type: ignore[no-any-return]


def test_readings_become_windows_of_their_label(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert board.degrees(1, 2, 3, label=2) == 0
    assert board.degrees(4, 5, 6) == 1
    assert board.degrees(7, 8) == 1
    assert (board.windows(), board.labels()) == ([[1, 2, 3, 4], [5, 6, 7, 8]], [2, 2])
    assert board.store.arrays().x.shape == (2, 4, 1)


def test_windows_overlap_by_their_stride(tmp_path: Path) -> None:
    board = Board(tmp_path, stride=1)
    assert board.degrees(1, 2, 3, 4, 5, 6, label=0) == 3
    assert board.windows() == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]


def test_each_sensor_has_windows_of_its_own(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for value in range(4):
        board.degrees(value, label=1)
        board.degrees(10 + value, topic="zigbee2mqtt/attic")
    assert sorted(board.windows()) == [[0, 1, 2, 3], [10, 11, 12, 13]]


def test_no_window_has_readings_of_two_labels(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.degrees(1, 2, label=0)
    board.degrees(3, label=0)  # said again: nothing has changed
    board.degrees(4, 5, 6)
    board.degrees(7, 8, 9, 10, label=1)
    assert (board.windows(), board.labels()) == ([[1, 2, 3, 4], [7, 8, 9, 10]], [0, 1])


@pytest.mark.parametrize("unlabel", [b"", b"null", b"unknown", b"-1", b"1.5", b'{"state": 1}', b"1e10", b"NaN"])
def test_without_a_label_nothing_is_stored(tmp_path: Path, unlabel: bytes) -> None:
    board = Board(tmp_path)
    assert board.degrees(1, 2, 3, 4) == 0
    assert board.source.dropped == {"in windows without a class": 1}
    assert board.degrees(1, 2, 3, 4, label=3) == 1
    board.bus.publish(LABEL, unlabel)
    assert board.degrees(1, 2, 3, 4) == 0
    assert board.degrees(5, 6, 7, 8, label=4) == 1
    assert board.labels() == [3, 4]


def test_a_label_in_a_field_and_one_that_is_a_switch(tmp_path: Path) -> None:
    board = Board(tmp_path, label_field="pump.on")
    board.degrees(1, 2, 3, 4, label={"pump": {"on": True}, "battery": 90})
    board.degrees(5, 6, 7, 8, label={"pump": {"on": False}})
    assert board.labels() == [1, 0]


def test_without_a_label_topic_the_window_is_its_own_target(tmp_path: Path) -> None:
    board = Board(
        tmp_path, label_topic="", topic="tele/+/SENSOR", fields=("AM2301.Temperature", "AM2301.Humidity"), window=2
    )
    assert board.say(TASMOTA, TASMOTA, topic="tele/attic/SENSOR") == 1
    x, y = board.store.arrays()
    assert x.tolist() == [[[21.5, 40.0], [21.5, 40.0]]]
    assert y.tolist() == [[21.5, 40.0, 21.5, 40.0]]


def test_a_long_silence_begins_a_new_window(tmp_path: Path) -> None:
    board = Board(tmp_path, max_gap=30.0)
    board.degrees(1, 2, 3, label=0)
    board.now += 20.0  # the last reading came 10 s before: 30 s in all
    board.degrees(4, 5, 6)
    board.now += 20.1
    board.degrees(7, 8, 9, 10)
    assert board.windows() == [[1, 2, 3, 4], [7, 8, 9, 10]]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "that are not JSON"),
        (b"21.5 C", "that are not JSON"),
        (b"\xff\xfe", "that are not JSON"),
        (b"[" * 60_000, "that are not JSON"),
        (b"9" * 60_000, "that are not JSON"),
        (b'{"temperature": "%s"}' % (b"x" * 65_536), "of more than 65536 bytes"),
        (b"21.5", "without temperature"),
        (b'{"humidity": 3}', "without temperature"),
        (b'{"temperature": null}', "with temperature that is no number"),
        (b'{"temperature": "21.5"}', "with temperature that is no number"),
        (b'{"temperature": {"value": 3}}', "with temperature that is no number"),
        (b'{"temperature": NaN}', "with temperature that is not finite in 32 bits"),
        (b'{"temperature": -Infinity}', "with temperature that is not finite in 32 bits"),
        (b'{"temperature": 1e39}', "with temperature that is not finite in 32 bits"),
        (b'{"temperature": 1%s}' % (b"0" * 400), "with temperature that is not finite in 32 bits"),
    ],
)
def test_what_is_no_reading_is_counted_and_dropped(tmp_path: Path, payload: bytes, reason: str) -> None:
    board = Board(tmp_path)
    board.degrees(1, 2, label=0)
    board.say(payload)
    assert board.source.dropped == {reason: 1}
    assert board.degrees(3, 4) == 1
    assert board.windows() == [[1, 2, 3, 4]]


@given(st.binary(max_size=80) | st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.dictionaries(st.sampled_from("ab"), inner)).map(lambda said: json.dumps(said).encode()))  # fmt: skip
def test_whatever_comes_it_is_a_number_or_a_reason(payload: bytes) -> None:
    try:
        value = readings._number(readings._json(payload), "a.b")
    except DataError as error:
        assert len(str(error)) < 60
    else:
        assert math.isfinite(np.float32(value))


def test_what_was_dropped_is_told_once_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = Board(tmp_path)
    for _ in range(13):
        board.say({"humidity": 3}, b"?")
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "messages on zigbee2mqtt/+ dropped so far: 1 without temperature"
    assert len(said) == 5
    assert said[-1].endswith("dropped so far: 13 without temperature, 12 that are not JSON")
    board.now += 600
    board.poll()
    assert len(caplog.records) == 6
    board.now += 600
    board.poll()
    assert len(caplog.records) == 6  # nothing new


def test_sensors_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "MAX_SENSORS", 2)
    board = Board(tmp_path)
    for sensor in "abc":
        board.degrees(1, 2, 3, 4, topic=f"zigbee2mqtt/{sensor}", label=0)
    assert len(board.windows()) == 2
    assert board.source.dropped == {"of more than 2 sensors": 4}


def test_windows_wait_for_a_disk_that_refuses_the_newest_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "MAX_WAITING", 3 * 4 * 4)
    board = Board(tmp_path)
    (tmp_path / "examples" / "lock").unlink()
    (tmp_path / "examples" / "lock").mkdir()
    board.degrees(1, 2, 3, label=0)
    for value in range(5):
        with pytest.raises(StoreError):
            board.degrees(4 + 10 * value)
        board.bus.publish(KITCHEN, b'{"temperature": 0}')
        board.bus.publish(KITCHEN, b'{"temperature": 0}')
        board.bus.publish(KITCHEN, b'{"temperature": 0}')
    assert board.source.dropped == {"in windows for which the disk had no room": 2}
    (tmp_path / "examples" / "lock").rmdir()
    assert board.poll() == 3
    assert board.windows() == [[0, 0, 0, 24], [0, 0, 0, 34], [0, 0, 0, 44]]


def test_windows_that_the_store_cannot_take_are_dropped_with_a_reason(tmp_path: Path) -> None:
    Board(tmp_path, window=2).degrees(1, 2, label=0)
    board = Board(tmp_path, window=4)
    with pytest.raises(DataError, match=r"holds x \[2, 1\] with a label, not x \[4, 1\] with a label"):
        board.degrees(1, 2, 3, 4, label=0)
    assert board.poll() == 0


def test_a_broker_that_is_away_is_tried_again_every_15_seconds(tmp_path: Path) -> None:
    board = Board(tmp_path)
    tries: list[float] = []

    def connect() -> LoopbackBus:
        tries.append(board.now)
        raise BusDown("no broker")

    source = ReadingsSource(Readings(TOPIC, ("a",)), connect, lambda: board.now)
    for _ in range(40):
        board.now += 1
        if not tries or board.now - tries[-1] >= 15:
            with pytest.raises(BusDown):
                source.poll(board.store)
        else:
            assert source.poll(board.store) == 0
    assert tries == [1, 16, 31]


# a real broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(KINDS[0], tmp_path_factory.mktemp("broker")) as (found, _):
        yield found


def test_over_a_real_broker(tmp_path: Path, broker: Broker) -> None:
    sensors = MqttBus(broker, "sensors")
    sensors.publish(LABEL, b"1", retain=True)
    settings = Readings(TOPIC, ("temperature", "humidity"), window=5, label_topic=LABEL)
    source = ReadingsSource(settings, lambda: connect(broker, "d1-readings"))
    store = Store.open(tmp_path)
    source.poll(store)
    marker = 0
    end = time.monotonic() + 30
    while len(store) < 3 and time.monotonic() < end:
        sensors.publish(KITCHEN, json.dumps({"temperature": marker, "humidity": 0.5}).encode())
        sensors.publish("zigbee2mqtt/bridge/state", b'{"state": "online"}')
        marker += 1
        sensors.deliveries(0.01)
        source.poll(store)
    x, y = store.arrays()
    assert y.tolist() == [1] * len(store)
    first = x[:, :, 0].reshape(-1)
    assert np.array_equal(np.diff(first), np.ones(len(first) - 1))  # each reading once, in order
    assert (x[:, :, 1] == 0.5).all()
    assert source.dropped == {}
    sensors.publish(LABEL, b"", retain=True)
    sensors.close()
    assert source._bus is not None
    source._bus.close()
