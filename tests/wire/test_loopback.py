"""The broker in memory: what it adds to the contract that all buses keep."""

from __future__ import annotations

from fedfleet.wire.bus import Will
from fedfleet.wire.loopback import Hub


def test_a_dead_bus_says_its_will_once_and_hears_nothing_more() -> None:
    hub = Hub()
    watcher, mortal = hub.connect(), hub.connect(Will("s", b"born", b"lost"))
    for bus in (watcher, mortal):
        bus.subscribe("s")
        bus.subscribe("a/+")
    mortal.die()
    watcher.publish("a/1", b"x")
    assert watcher.deliveries(0) == [("s", b"born"), ("s", b"lost"), ("a/1", b"x")]
    assert mortal.deliveries(0) == [("s", b"born")]
    assert hub.retained == {"s": b"lost"}


def test_a_closed_bus_leaves_without_its_will() -> None:
    hub = Hub()
    bus = hub.connect(Will("s", b"born", b"lost"))
    bus.close()
    bus.close()
    assert hub.retained == {"s": b"born"}
    assert hub.buses == []


def test_a_message_that_two_subscriptions_ask_for_comes_once() -> None:
    hub = Hub()
    bus = hub.connect()
    for pattern in ("a/+", "a/b", "a/b"):
        bus.subscribe(pattern)
    bus.publish("a/b", b"1")
    assert bus.deliveries(0) == [("a/b", b"1")]
    assert bus.deliveries(0) == []


def test_subscribing_again_brings_what_is_retained_again() -> None:
    hub = Hub()
    bus = hub.connect()
    bus.publish("a/b", b"1", retain=True)
    bus.publish("a/c", b"2")
    for _ in range(2):
        bus.subscribe("a/+")
        assert bus.deliveries(0) == [("a/b", b"1")]


def test_an_empty_payload_clears_and_is_told_to_who_listens() -> None:
    hub = Hub()
    bus = hub.connect()
    bus.publish("a", b"1", retain=True)
    bus.subscribe("a")
    bus.publish("a", b"", retain=True)
    bus.publish("never", b"", retain=True)
    assert bus.deliveries(0) == [("a", b"1"), ("a", b"")]
    assert hub.retained == {}


def test_bytes_are_counted_both_ways() -> None:
    hub = Hub()
    left, right = hub.connect(), hub.connect()
    right.subscribe("topic")
    left.publish("topic", b"12345")
    left.publish("other", b"1")
    assert (left.sent, left.received) == (16, 0)
    assert (right.sent, right.received) == (0, 10)
