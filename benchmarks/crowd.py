"""Many MQTT clients in one process, each with a thread of its own, which say when a broker took them back."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

PATIENCE = 240.0
LOOK = 0.01


def crowd(kind: str, count: int, port: int, name: str) -> None:
    """Connect `count` clients, print a line, wait until all have been back, print their times as JSON."""
    logging.getLogger("fedfleet.bus").setLevel(logging.ERROR)
    times = CROWDS[kind]([f"c{name}-{number}" for number in range(count)], port)
    _all(times, 1)
    print("connected", flush=True)
    _all(times, 2)
    print(json.dumps([each[1] for each in times]), flush=True)


def _ours(names: list[str], port: int) -> list[list[float]]:
    buses = [MqttBus(Broker(port=port), name, wait=0) for name in names]
    times: list[list[float]] = [[] for _ in buses]

    def look() -> None:
        while True:
            for bus, seen in zip(buses, times, strict=True):
                if bus.connections > len(seen):
                    seen.append(time.monotonic())
            time.sleep(LOOK)

    threading.Thread(target=look, daemon=True).start()
    return times


def _paho(names: list[str], port: int) -> list[list[float]]:
    times: list[list[float]] = []
    for name in names:
        client, seen = Client(CallbackAPIVersion.VERSION2, name), list[float]()
        client.on_connect = lambda *_, seen=seen: seen.append(time.monotonic())
        client.connect_async("127.0.0.1", port)
        client.loop_start()
        times.append(seen)
    return times


def _all(times: list[list[float]], count: int) -> None:
    end = time.monotonic() + PATIENCE
    while any(len(each) < count for each in times):
        if time.monotonic() > end:
            missing = sum(len(each) < count for each in times)
            raise SystemExit(f"{missing} clients of {len(times)} were not connected within {PATIENCE:g} s")
        time.sleep(LOOK)


CROWDS: dict[str, Callable[[list[str], int], list[list[float]]]] = {"fedfleet": _ours, "paho": _paho}
