"""Brokers that stall, die, are full or are not read from: the link comes back, and nothing that matters is lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from brokers import KINDS, OPEN, free_port, mosquitto, needs_mosquitto
from processes import until

from fedfleet.sim.brokers import running
from fedfleet.wire.boxes import ARRIVALS
from fedfleet.wire.bus import Delivery, Will
from fedfleet.wire.errors import BusDown, TooLarge
from fedfleet.wire.link import WINDOW
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

ROOT = "fedfleet/v1/test"


def soon() -> float:
    return 0.01


def gather(bus: MqttBus, count: int, seconds: float = 20.0) -> list[Delivery]:
    found: list[Delivery] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += bus.deliveries(0.1)
    return found


@needs_mosquitto
def test_a_broker_that_stalls_is_noticed_within_one_and_a_half_keepalives_and_a_quiet_one_is_left_alone(
    tmp_path: Path,
) -> None:
    port, other, keepalive = free_port(), free_port(), 5
    with mosquitto(tmp_path, other, OPEN), mosquitto(tmp_path, port, OPEN) as process:
        bus = MqttBus(Broker(port=port, keepalive=keepalive), "d1", jitter=soon)
        quiet = MqttBus(Broker(port=other, keepalive=keepalive), "d1", jitter=soon)
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        bus.publish(f"{ROOT}/a", b"said to nobody")
        assert until(lambda: bool(bus.reason), 3 * keepalive)
        assert time.monotonic() - began <= 1.5 * keepalive
        assert "the link was lost: it was silent for too long" in bus.reason
        assert not until(lambda: bool(quiet.reason), began + 1.5 * keepalive - time.monotonic())
        process.send_signal(signal.SIGCONT)
        assert until(lambda: bus.connections == 2 and bus.pending == 0)
        assert (bus.reason, quiet.connections) == ("", 1)
        bus.close()
        quiet.close()


@needs_mosquitto
def test_a_broker_that_was_killed_and_forgot_everything_is_told_again(tmp_path: Path) -> None:
    port = free_port()
    with mosquitto(tmp_path, port, OPEN):
        bus = MqttBus(Broker(port=port), "d1", Will(f"{ROOT}/status", b"born", b"lost"), jitter=soon)
        bus.subscribe(f"{ROOT}/task")
        assert until(lambda: bus.pending == 0)
    assert until(lambda: bool(bus.reason))
    for number in range(50):
        bus.publish(f"{ROOT}/kept/{number}", b"said while it was away", retain=True)
    assert bus.pending == 50
    with mosquitto(tmp_path, port, OPEN):
        assert until(lambda: bus.connections == 2 and bus.pending == 0)
        other = MqttBus(Broker(port=port), "cloud")
        for pattern in (f"{ROOT}/kept/+", f"{ROOT}/status"):
            other.subscribe(pattern)
        found = gather(other, 51)
        assert {topic for topic, payload in found if payload != b"born"} == {f"{ROOT}/kept/{n}" for n in range(50)}
        assert (f"{ROOT}/status", b"born") in found
        other.publish(f"{ROOT}/task", b"1")
        assert gather(bus, 1) == [(f"{ROOT}/task", b"1")]
        other.close()
        bus.close()


@needs_mosquitto
def test_what_is_too_large_for_mosquitto_never_breaks_the_link(tmp_path: Path) -> None:
    port = free_port()
    with mosquitto(tmp_path, port, OPEN, "max_packet_size 2000"):
        bus = MqttBus(Broker(port=port), "d1", jitter=soon)
        with pytest.raises(TooLarge, match="3030 bytes, and the broker takes 2000"):
            bus.publish(f"{ROOT}/large", bytes(3000))
        bus.subscribe(f"{ROOT}/small")
        bus.publish(f"{ROOT}/small", b"x")
        assert gather(bus, 1) == [(f"{ROOT}/small", b"x")]
        assert bus.connections == 1
        bus.close()


@needs_mosquitto
def test_what_is_too_large_for_mosquitto_is_given_up_where_it_cannot_say_so(tmp_path: Path) -> None:
    port = free_port()
    with mosquitto(tmp_path, port, OPEN, "max_packet_size 2000"):
        bus = MqttBus(Broker(port=port, mqtt=3), "d1", jitter=soon)
        bus.subscribe(f"{ROOT}/small")
        bus.publish(f"{ROOT}/large", bytes(3000))
        bus.publish(f"{ROOT}/small", b"x")
        assert until(lambda: bus.pending == 0)
        bus.publish(f"{ROOT}/small", b"y")
        assert gather(bus, 1)[-1][0] == f"{ROOT}/small"
        assert bus.connections == 6
        assert bus.dropped >= 1
        bus.close()


@needs_mosquitto
def test_of_two_clients_with_one_name_each_is_told_of_the_other(tmp_path: Path) -> None:
    port = free_port()
    with mosquitto(tmp_path, port, OPEN):
        first = MqttBus(Broker(port=port), "twin", jitter=lambda: 0.25)
        second = MqttBus(Broker(port=port), "twin", jitter=lambda: 0.25)
        assert until(lambda: "look for another client named twin" in first.reason)
        assert not until(lambda: first.connections + second.connections > 4, 2.5)
        first.close()
        second.close()


@needs_mosquitto
def test_who_is_refused_is_let_in_when_the_broker_has_learned_of_it(tmp_path: Path) -> None:
    port = free_port()
    with mosquitto(tmp_path, port, "allow_anonymous false"):
        with pytest.raises(BusDown, match="refused d1: it answered: Not authorized"):
            MqttBus(Broker(port=port), "d1")
        bus = MqttBus(Broker(port=port), "d1", wait=0, jitter=soon)
        assert until(lambda: "Not authorized" in bus.reason)
    with mosquitto(tmp_path, port, OPEN):
        assert until(lambda: bus.connections == 1)
        bus.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_is_busy_holds_the_broker_back_and_loses_nothing(kind: str, tmp_path: Path) -> None:
    count = 600
    with running(kind, tmp_path) as (broker, _):
        reader, writer = MqttBus(broker, "reader"), MqttBus(broker, "writer")
        for bus, pattern in ((reader, f"{ROOT}/many/+"), (writer, f"{ROOT}/own/+")):
            bus.subscribe(f"{ROOT}/ready")
            bus.subscribe(pattern)
        writer.publish(f"{ROOT}/ready", b"now", retain=True)
        assert gather(reader, 1) == gather(writer, 1) == [(f"{ROOT}/ready", b"now")]
        for number in range(count):
            writer.publish(f"{ROOT}/many/{number}", bytes(10_000))
        assert until(lambda: writer.pending == 0)
        for number in range(5):
            reader.publish(f"{ROOT}/own/{number}", b"goes out although nothing is taken in")
        assert len(gather(writer, 5)) == 5
        held = len(reader._keeper.inbox._arrivals)
        assert held in ((WINDOW - 1, WINDOW) if kind == "mosquitto" else (ARRIVALS,))
        assert [topic for topic, _ in gather(reader, count)] == [f"{ROOT}/many/{number}" for number in range(count)]
        assert until(lambda: reader.pending == 0)
        assert reader.connections == 1
        reader.close()
        writer.close()
