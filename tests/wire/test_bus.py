"""One contract, three buses: the loopback, and MQTT over mosquitto (version 5) and amqtt (version 3.1.1)."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import KINDS

from fedfleet.sim import brokers
from fedfleet.sim.brokers import running
from fedfleet.wire.bus import Bus, Delivery, Will
from fedfleet.wire.errors import BusDown
from fedfleet.wire.loopback import Hub
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

Connect = Callable[..., Bus]
ROOT = "fedfleet/v1/test"


@pytest.fixture(scope="module", params=["loopback", *KINDS])
def connect(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    if request.param == "loopback":
        hub = Hub()
        yield lambda _name, will=None: hub.connect(will)
        return
    with running(request.param, tmp_path_factory.mktemp("broker")) as (broker, _):
        yield lambda name, will=None: MqttBus(broker, name, will)


def collect(bus: Bus, count: int, seconds: float = 5.0) -> list[Delivery]:
    """Return deliveries until there are `count`, or time is up."""
    found: list[Delivery] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += bus.deliveries(0.1)
    return found


def cut_link(bus: MqttBus) -> None:
    """Break the TCP connection under a bus, as a dead router does."""
    link = bus._client.socket()
    assert link is not None
    link.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


def test_what_is_published_arrives_in_order(connect: Connect) -> None:
    reader, writer = connect("reader-1"), connect("writer-1")
    reader.subscribe(f"{ROOT}/order/+")
    reader.subscribe(f"{ROOT}/barrier-1")
    writer.publish(f"{ROOT}/barrier-1", b"retained", retain=True)
    assert collect(reader, 1) == [(f"{ROOT}/barrier-1", b"retained")]
    for i in range(200):
        writer.publish(f"{ROOT}/order/{i}", str(i).encode())
    assert collect(reader, 200) == [(f"{ROOT}/order/{i}", str(i).encode()) for i in range(200)]
    assert writer.sent == reader.received
    writer.publish(f"{ROOT}/barrier-1", b"", retain=True)
    reader.close()
    writer.close()


def test_the_newest_retained_message_comes_with_the_subscription(connect: Connect) -> None:
    writer = connect("writer-2")
    for text in (b"old", b"new"):
        writer.publish(f"{ROOT}/kept", text, retain=True)
    writer.close()
    reader = connect("reader-2")
    reader.subscribe(f"{ROOT}/kept")
    while collect(reader, 1) != [(f"{ROOT}/kept", b"new")]:
        pass  # amqtt may still be busy storing the newer one, which then follows
    reader.publish(f"{ROOT}/kept", b"", retain=True)
    assert collect(reader, 1) == [(f"{ROOT}/kept", b"")]
    reader.close()
    late = connect("late-2")
    late.subscribe(f"{ROOT}/kept")
    assert [payload for topic, payload in collect(late, 1, 0.5) if topic == f"{ROOT}/kept"] == []
    late.close()


def test_what_the_broker_has_not_acknowledged_is_pending(connect: Connect) -> None:
    writer = connect("writer-4")
    for i in range(100):
        writer.publish(f"{ROOT}/pending/{i}", bytes(1000))
    assert writer.pending <= 100
    end = time.monotonic() + 5.0
    while writer.pending and time.monotonic() < end:
        writer.deliveries(0.01)
    assert writer.pending == 0
    assert writer.connections == 1
    writer.close()


def test_a_subscription_can_be_taken_back(connect: Connect) -> None:
    reader, writer = connect("reader-3"), connect("writer-3")
    reader.subscribe(f"{ROOT}/a/+")
    reader.subscribe(f"{ROOT}/b")
    reader.unsubscribe(f"{ROOT}/a/+")
    for attempt in range(50):  # amqtt takes its time: what matters is that it ends
        writer.publish(f"{ROOT}/a/x", b"unwanted")
        writer.publish(f"{ROOT}/b", str(attempt).encode())
        found = collect(reader, 2, 0.5)
        if found == [(f"{ROOT}/b", str(attempt).encode())]:
            break
    assert found == [(f"{ROOT}/b", str(attempt).encode())]
    reader.close()
    writer.close()


def test_birth_is_said_and_death_only_when_lost(connect: Connect) -> None:
    watcher = connect("watcher")
    watcher.subscribe(f"{ROOT}/status")
    bus = connect("mortal", Will(f"{ROOT}/status", b"born", b"lost"))
    assert collect(watcher, 1) == [(f"{ROOT}/status", b"born")]
    bus.close()
    assert collect(watcher, 1, 0.5) == []
    again = connect("mortal", Will(f"{ROOT}/status", b"born again", b"lost"))
    assert collect(watcher, 1) == [(f"{ROOT}/status", b"born again")]
    if isinstance(again, MqttBus):
        cut_link(again)
    else:
        again.die()  # type: ignore[attr-defined]
    assert collect(watcher, 1)[0] == (f"{ROOT}/status", b"lost")
    again.close()
    watcher.close()


@pytest.mark.parametrize("kind", KINDS)
def test_subscriptions_and_birth_survive_a_lost_link(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as (broker, _):
        bus = MqttBus(broker, "device", Will(f"{ROOT}/s", b"born", b"lost"))
        bus.subscribe(f"{ROOT}/task")
        writer = MqttBus(broker, "cloud")
        writer.publish(f"{ROOT}/task", b"1", retain=True)
        assert collect(bus, 1) == [(f"{ROOT}/task", b"1")]
        assert bus.connections == 1
        cut_link(bus)
        writer.publish(f"{ROOT}/task", b"2", retain=True)
        while collect(bus, 1, 10.0)[-1] != (f"{ROOT}/task", b"2"):
            pass  # the old one may come once more with the subscription
        assert (bus.connections, writer.connections) == (2, 1)
        writer.close()
        bus.close()


def test_a_broker_that_knows_only_the_older_version_is_found_out(tmp_path: Path) -> None:
    with running("amqtt", tmp_path) as (broker, _):
        bus = MqttBus(replace(broker, mqtt=5), "modern")
        bus.subscribe(f"{ROOT}/old")
        bus.publish(f"{ROOT}/old", b"heard")
        assert collect(bus, 1) == [(f"{ROOT}/old", b"heard")]
        bus.close()


def test_a_broker_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(BusDown, match=r"no broker at 127.0.0.1:9: Connection refused; start one or correct host"):
        MqttBus(Broker(port=9), "nobody")


def test_a_port_that_does_not_speak_mqtt_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(BusDown, match="no answer within 0.3 s"):
            MqttBus(Broker(port=silent.getsockname()[1]), "nobody", wait=0.3)


@pytest.mark.skipif("mosquitto" not in KINDS, reason="mosquitto is not installed")
def test_refused_credentials_are_named(tmp_path: Path) -> None:
    port = brokers._port("")
    (tmp_path / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\n")
    path = brokers.mosquitto()
    assert path is not None
    with (tmp_path / "m.log").open("wb") as log:
        process = subprocess.Popen([path, "-c", str(tmp_path / "m.conf")], stdout=log, stderr=log)
    try:
        brokers._await(Broker(port=port), process, tmp_path / "m.log")
        with pytest.raises(
            BusDown, match=r"refused eve: it answered: Not authorized; check host, port and credentials"
        ):
            MqttBus(Broker(port=port), "eve")
    finally:
        process.terminate()
        process.wait(5)
