"""What a broker keeps: all that is retained when it is told to end, without writing it anew for whatever passes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from broker.estates import TOPICS, Estate
from processes import until

from fedfleet.wire.mqtt import MqttBus

CHUNK = 65_536


def cloud(at: Estate) -> MqttBus:
    return MqttBus(at.broker(), "mill-cloud", jitter=lambda: 0.02)


def pid(at: Estate) -> int:
    return int((at.folder / "data/mosquitto.pid").read_text())


def written(at: Estate) -> int:
    """Bytes that the broker has had written to the disk."""
    return int(Path(f"/proc/{pid(at)}/io").read_text().partition("\nwrite_bytes: ")[2].split()[0])


def told(bus: MqttBus) -> bool:
    bus.deliveries(0.01)
    return bus.pending == 0


def test_what_passes_is_not_paid_for_with_all_that_is_retained(kind: str, tmp_path: Path) -> None:
    at = Estate(tmp_path)
    at.mosquitto.start()
    try:
        bus = cloud(at)
        for number in range(30):
            bus.publish(TOPICS.chunk(f"{number:032x}"), os.urandom(CHUNK), retain=True)
        assert until(lambda: told(bus))
        bus.subscribe(TOPICS.want())
        before, heard = written(at), 0
        for number in range(100):
            bus.publish(TOPICS.want("pump-1"), b"%d" % number)
        while heard < 100:
            heard += len(bus.deliveries(10))
        assert written(at) - before < 30 * CHUNK  # with autosave_interval 1 it is thirty times as much
        bus.close()
    finally:
        at.mosquitto.kill()


def test_a_broker_that_is_told_to_end_forgets_nothing(kind: str, tmp_path: Path) -> None:
    at = Estate(tmp_path)
    at.mosquitto.start()
    try:
        bus = cloud(at)
        bus.publish(TOPICS.task, b"the task", retain=True)
        assert until(lambda: told(bus))
        bus.close()
        os.kill(pid(at), signal.SIGTERM)
        at.mosquitto.wait()
        at.mosquitto.start()
        bus = cloud(at)
        bus.subscribe(TOPICS.task)
        assert bus.deliveries(10) == [(TOPICS.task, b"the task")]
        bus.close()
    finally:
        at.mosquitto.kill()
