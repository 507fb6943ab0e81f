"""What brokers say, byte by byte: limits that are obeyed, refusals in words, and garbage that ends no thread."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from brokers import Peer, free_port, scripted
from processes import until

from fedfleet.wire import keeper
from fedfleet.wire.bus import Will
from fedfleet.wire.errors import BusDown, TooLarge
from fedfleet.wire.link import LARGEST_IN, WINDOW
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, DISCONNECT = 1, 3, 4, 8, 14
NEVER = 0.0  # as jitter: no pause


def never() -> float:
    return NEVER


def stay(peer: Peer) -> None:
    """Read for as long as the client is there."""
    while True:
        peer.packet()


def published(rest: bytes) -> tuple[str, bytes]:
    """Return topic and packet id of a PUBLISH at QoS 1."""
    end = 2 + int.from_bytes(rest[:2])
    return rest[2:end].decode(), rest[end : end + 2]


def test_the_greeting_names_our_limits_and_two_thirds_of_the_keepalive() -> None:
    greetings: list[bytes] = []

    def script(peer: Peer) -> None:
        greetings.append(peer.welcome())
        stay(peer)

    with scripted(script) as broker:
        bus = MqttBus(replace(broker, keepalive=60), "d1")
        bus.close()
    head, properties = greetings[0][:10], greetings[0][11 : 11 + greetings[0][10]]
    assert head == b"\0\4MQTT\5\2" + (40).to_bytes(2)
    assert properties == b"\x21" + WINDOW.to_bytes(2) + b"\x27" + LARGEST_IN.to_bytes(4)


def test_no_more_is_sent_than_the_broker_receives_at_once() -> None:
    most: list[int] = []

    def script(peer: Peer) -> None:
        peer.welcome(b"\x21\x00\x02")  # Receive Maximum 2
        open_packets: list[bytes] = []
        peer.link.settimeout(0.3)
        for _ in range(7):
            try:
                while True:
                    kind, rest = peer.packet()
                    assert kind == PUBLISH
                    open_packets.append(published(rest)[1])
            except TimeoutError:
                pass  # no more comes unless one is acknowledged
            most.append(len(open_packets))
            peer.send(0x40, open_packets.pop(0))
        peer.link.settimeout(20)
        stay(peer)

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1", Will("t/birth", b"born", b"lost"))
        for number in range(6):
            bus.publish(f"t/{number}", b"x")
        assert until(lambda: bus.pending == 0)
        bus.close()
    assert most == [2, 2, 2, 2, 2, 2, 1]


def test_what_is_too_large_for_the_broker_is_refused_here_and_never_sent() -> None:
    topics: list[str] = []

    def script(peer: Peer) -> None:
        peer.welcome(b"\x27" + (1000).to_bytes(4))  # Maximum Packet Size 1000
        while True:
            kind, rest = peer.packet()
            if kind == PUBLISH:
                assert len(rest) + 3 <= 1000
                topics.append(published(rest)[0])
                peer.send(0x40, published(rest)[1])

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1")
        bus.publish("t/fits", bytes(1000 - 3 - 2 - 6 - 2 - 1))
        with pytest.raises(TooLarge, match="t/more1: 1001 bytes, and the broker takes 1000; raise its max_packet_size"):
            bus.publish("t/more1", bytes(1000 - 3 - 2 - 7 - 2 - 1 + 1))
        bus.publish("t/small", b"x")
        assert until(lambda: bus.pending == 0)
        assert bus.connections == 1
        bus.close()
    assert topics == ["t/fits", "t/small"]


def test_what_was_published_before_the_limit_was_known_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    ready = threading.Event()

    def script(peer: Peer) -> None:
        ready.wait(10)
        peer.welcome(b"\x27" + (1000).to_bytes(4))
        while True:
            kind, rest = peer.packet()
            if kind == PUBLISH:
                peer.send(0x40, published(rest)[1])

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1", wait=0)
        for payload in (bytes(5000), bytes(6000), b"x"):
            bus.publish("t/1", payload)
        assert (bus.pending, bus.connections) == (3, 0)
        ready.set()
        assert until(lambda: bus.pending == 0)
        bus.close()
    assert bus.dropped == 2
    said = "dropped a message on t/1: 5011 bytes, and the broker takes 1000; said once for each link"
    assert [line for line in caplog.messages if "dropped" in line] == [said]


@pytest.mark.parametrize(
    ("code", "words", "ceiling"),
    [
        (0x86, "Bad user name or password", 600),
        (0x87, "Not authorized", 600),
        (0x85, "Client identifier not valid", 600),
        (0x8A, "Banned", 600),
        (0x89, "Server busy", 60),
        (0x88, "Server unavailable", 60),
    ],
)
def test_refusals_are_told_in_the_brokers_words_and_wait_longer_than_faults(
    code: int, words: str, ceiling: float, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[float] = []

    def script(peer: Peer) -> None:
        attempts.append(time.monotonic())
        peer.welcome(reason=code)

    with scripted(script) as broker:
        with pytest.raises(BusDown, match=rf"refused d1: it answered: {words}; check host, port and credentials"):
            MqttBus(broker, "d1")
        assert len(attempts) == 1
        assert caplog.messages == []  # who catches the error says it
        bus = MqttBus(broker, "d1", wait=0, jitter=iter([0.0] * 12 + [1.0] * 9).__next__)
        assert until(lambda: f"trying again in {ceiling:.1f} s" in caplog.text)
        assert words in bus.reason
        began = time.monotonic()
        bus.close()  # in the middle of that pause
        assert time.monotonic() - began < 2


def test_another_client_with_our_name_is_said_to_be_one(caplog: pytest.LogCaptureFixture) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(0xE0, b"\x8e\x00")

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1", jitter=lambda: 1.0)
        assert until(lambda: "the link was lost" in bus.reason)
        assert "another client came as d1; give each device a name of its own" in bus.reason
        bus.close()
    assert "trying again in 4.0 s" in caplog.text


def test_links_that_break_at_once_back_off_although_each_was_made(caplog: pytest.LogCaptureFixture) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()

    tiny = 1e-4
    with scripted(script) as broker:
        bus = MqttBus(broker, "d1", jitter=lambda: tiny)
        assert until(lambda: bus.connections >= 9)
        bus.close()
    pauses = [record.args[1] for record in caplog.records if "trying again" in record.message]  # type: ignore[index]
    assert pauses[:8] == pytest.approx([tiny * window for window in (4, 8, 16, 32, 60, 60, 60, 60)])


def test_what_came_at_qos_0_is_not_acknowledged() -> None:
    seen: list[int] = []

    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(0x30, b"\0\3t/0\0" + b"sensor")
        peer.send(0x32, b"\0\3t/1\0\7\0" + b"cloud")
        while True:
            kind, rest = peer.packet()
            seen.append(kind)
            if kind == PUBACK:
                assert rest == b"\0\7"

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1")
        found = list(bus.deliveries(5))
        assert until(lambda: len(found) == 2 or found.extend(bus.deliveries(0.1)))  # type: ignore[func-returns-value]
        assert found == [("t/0", b"sensor"), ("t/1", b"cloud")]
        bus.deliveries(0)
        bus.close()
    assert seen == [PUBACK, DISCONNECT]


def test_what_came_by_a_lost_link_is_not_acknowledged_by_the_next() -> None:
    """Its packet id names another message there, which would be lost."""
    acknowledged, read = list[bytes](), threading.Event()

    def first(peer: Peer) -> None:
        peer.welcome()
        peer.send(0x32, b"\0\3t/1\0\7\0" + b"old")

    def second(peer: Peer) -> None:
        peer.welcome()
        read.wait(10)
        peer.send(0x32, b"\0\3t/2\0\7\0" + b"new")
        while True:
            kind, rest = peer.packet()
            if kind == PUBACK:
                acknowledged.append(rest)

    with scripted(first, second) as broker:
        bus = MqttBus(broker, "d1", jitter=never)
        assert bus.deliveries(5) == [("t/1", b"old")]
        assert until(lambda: bus.connections == 2)
        read.set()
        assert bus.deliveries(5) == [("t/2", b"new")]
        bus._unacknowledged.clear()  # as if the reader had died before it was done with the second one
        bus.close()
    assert acknowledged == []


def test_what_is_asked_for_while_the_link_is_down_is_asked_for_once() -> None:
    ready, asked = threading.Event(), list[bytes]()

    def script(peer: Peer) -> None:
        ready.wait(10)
        peer.welcome()
        while True:
            kind, rest = peer.packet()
            if kind == SUBSCRIBE:
                asked.append(rest[5:-1])

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1", wait=0)
        for pattern in ("t/1", "t/2", "t/1", "t/3"):
            bus.subscribe(pattern)
        bus.unsubscribe("t/3")
        ready.set()
        assert until(lambda: bus.connections == 1)
        bus.close()
    assert asked == [b"t/1", b"t/2"]


def test_a_topic_that_is_no_text_is_dropped_and_the_link_stays(caplog: pytest.LogCaptureFixture) -> None:
    acknowledged: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.welcome()
        peer.send(0x32, b"\0\3\xff\xfe\xfd\0\7\0" + b"bad")
        peer.send(0x32, b"\0\3t/1\0\x08\0" + b"good")
        while True:
            kind, rest = peer.packet()
            if kind == PUBACK:
                acknowledged.append(rest)

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1")
        assert bus.deliveries(5) == [("t/1", b"good")]
        bus.close()
        assert bus.connections == 1
    assert acknowledged == [b"\0\7", b"\0\x08"]
    assert "dropped a message whose topic is not UTF-8" in caplog.text


def test_a_publish_that_is_not_authorised_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        while True:
            kind, rest = peer.packet()
            if kind == PUBLISH:
                peer.send(0x40, published(rest)[1] + b"\x87\x00")
            elif kind == SUBSCRIBE:
                peer.send(0x90, rest[:2] + b"\x00\x87")

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1")
        bus.publish("t/1", b"x")
        bus.publish("t/2", b"x")
        bus.subscribe("t/+")
        assert until(lambda: bus.pending == 0 and "a subscription" in caplog.text)
        bus.close()
    said = "the broker refuses what d1 says on t/1: Not authorized; check its access list"
    assert [line for line in caplog.messages if "refuses what" in line] == [said]
    assert "the broker refuses d1 a subscription: Not authorized" in caplog.text


def test_a_message_that_no_link_survives_does_not_block_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """MQTT 3.1.1 has no way to say what is too large: such a broker just hangs up."""
    heard: list[str] = []

    def script(peer: Peer) -> None:
        kind, greeting = peer.packet()
        assert (kind, greeting[6]) == (CONNECT, 4)
        peer.send(0x20, b"\0\0")
        while True:
            kind, rest = peer.packet()
            if kind == PUBLISH:
                topic, packet = published(rest)
                if topic == "t/large":
                    return
                heard.append(topic)
                peer.send(0x40, packet)

    with scripted(script) as broker:
        bus = MqttBus(replace(broker, mqtt=3), "d1", jitter=never)
        bus.publish("t/large", bytes(100))
        assert until(lambda: bus.dropped == 1)
        bus.publish("t/small", b"x")
        assert until(lambda: bus.pending == 0)
        bus.close()
    assert heard == ["t/small"]
    assert "dropped a message on t/large: link after link was lost under it" in caplog.text


def test_version_3_is_tried_where_5_is_refused_or_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "ANSWER", 1.0)
    versions: list[int] = []

    def older(first: Callable[[Peer], None]) -> Callable[[Peer], None]:
        def script(peer: Peer) -> None:
            version = peer.packet()[1][6]
            versions.append(version)
            if version == 5:
                first(peer)
            else:
                peer.send(0x20, b"\0\0")
                stay(peer)

        return script

    for answer in (lambda peer: peer.send(0x20, b"\0\1"), lambda peer: None, stay):
        with scripted(older(answer)) as broker:
            MqttBus(broker, "d1").close()
    assert versions == [5, 4] * 3


def test_a_plain_client_at_a_port_for_tls_is_told() -> None:
    def script(peer: Peer) -> None:
        peer.packet()

    with scripted(script) as broker, pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "TLS_PORTS", (broker.port,))
        with pytest.raises(BusDown, match=rf"it hung up; port {broker.port} is usually for TLS: set broker.tls = true"):
            MqttBus(broker, "d1")


def test_garbage_ends_the_link_and_never_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Three hundred connections at which the broker says something random, most of it after a proper welcome."""
    caplog.set_level(logging.CRITICAL)
    draw, rounds = random.Random(11), 300
    count = 0

    def garbage(peer: Peer) -> None:
        nonlocal count
        count += 1
        if count > rounds:
            peer.welcome()
            stay(peer)
        if draw.random() < 0.8:
            peer.welcome()
        for _ in range(draw.randrange(1, 4)):
            if draw.random() < 0.7:
                kind = draw.choice([0x20, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x90, 0xB0, 0xD0, 0xE0])
                peer.send(kind | draw.choice([0, 0, draw.randrange(16)]), draw.randbytes(draw.randrange(12)))
            else:
                peer.link.sendall(draw.randbytes(draw.randrange(1, 30)))
        peer.link.settimeout(0.005)
        stay(peer)

    with scripted(garbage) as broker:
        bus = MqttBus(broker, "d1", wait=0, jitter=never)
        assert until(lambda: count > rounds and not bus.reason, 60)
        bus.deliveries(0)
        assert bus.connections > 200
        bus.close()
    assert not bus._keeper._thread.is_alive()


def test_a_fault_of_ours_ends_the_link_and_never_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    def script(peer: Peer) -> None:
        peer.welcome()
        stay(peer)

    with scripted(script) as broker:
        bus = MqttBus(broker, "d1", jitter=never)
        bus._keeper.order(lambda link: link.subscribe(""))  # paho raises ValueError
        assert until(lambda: bus.connections == 2)
        bus.close()
    assert "a fault of ours ended the link" in caplog.text
    assert "ValueError: Invalid subscription filter.; trying again in 0.0 s" in caplog.text


def test_a_name_that_is_none_is_tried_again_and_closing_does_not_wait() -> None:
    bus = MqttBus(Broker(host="no-such-host.invalid", port=free_port()), "d1", wait=0)
    assert until(lambda: "no broker at no-such-host.invalid" in bus.reason)
    bus.close()
    bus.close()  # twice does no harm, nor does what is said afterwards
    bus.publish("t", b"x")
    assert bus.deliveries(0) == []
