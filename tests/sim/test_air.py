"""The virtual broker and its links: what QoS 1 promises holds, and each fault does what it says."""

from __future__ import annotations

import pytest

from fedfleet.sim.virtual.air import KEEPALIVE, Air, AirBus
from fedfleet.sim.virtual.clock import Clock
from fedfleet.sim.virtual.faults import Faults
from fedfleet.wire.bus import Will

WILL = Will("fleet/a/status", b"born", b"dead")


def air(**rates: float) -> Air:
    return Air(Clock(), Faults(**rates), 0)


def link(found: Air, name: str, *patterns: str, will: Will | None = None) -> AirBus:
    bus = found.connect(name, will, lambda: None)
    for pattern in patterns:
        bus.subscribe(pattern)
    settle(found)
    return bus


def settle(found: Air, seconds: float = 30.0) -> None:
    """Let pass less time than it takes the broker to miss anyone."""
    end = found.clock.now + seconds
    found.clock.at(end, lambda: None)
    while found.clock.now < end:
        found.clock.step()


def heard(bus: AirBus) -> list[bytes]:
    return [delivery.payload for delivery in bus.deliveries(0)]


def test_what_is_said_arrives_later_at_those_who_listen() -> None:
    world = air(delay=1.0)
    bus, other, wide = link(world, "b", "x/1"), link(world, "c", "x/2"), link(world, "d", "x/+")
    link(world, "a").publish("x/1", b"hello")
    assert heard(bus) == []
    settle(world)
    assert (heard(bus), heard(other), heard(wide)) == ([b"hello"], [], [b"hello"])
    assert bus.received == len("x/1hello")


def test_what_is_retained_comes_first_and_can_be_cleared() -> None:
    world = air()
    bus = link(world, "a")
    bus.publish("x/1", b"kept", retain=True)
    bus.publish("x/2", b"said")
    settle(world)
    assert heard(link(world, "b", "x/+")) == [b"kept"]
    bus.publish("x/1", b"", retain=True)
    settle(world)
    assert heard(link(world, "c", "x/+", "x/1")) == []


def test_who_has_unsubscribed_hears_nothing() -> None:
    world = air()
    bus = link(world, "b", "x/1", "x/+")
    bus.unsubscribe("x/1")
    bus.unsubscribe("x/+")
    link(world, "a").publish("x/1", b"hello", retain=True)
    settle(world)
    assert heard(bus) == []


def test_messages_of_a_link_keep_their_order_unless_some_are_overtaken() -> None:
    for rate, ordered in ((0.0, True), (0.5, False)):
        world = air(delay=2.0, reorder=rate)
        bus, speaker = link(world, "b", "x"), link(world, "a")
        for number in range(50):
            speaker.publish("x", b"%d" % number)
        settle(world)
        found = [int(payload) for payload in heard(bus)]
        assert sorted(found) == list(range(50))
        assert (found == sorted(found)) is ordered


@pytest.mark.parametrize(("rates", "least", "most"), [({"lose": 0.3}, 40, 90), ({"repeat": 0.3}, 120, 230)])
def test_messages_are_lost_and_repeated_at_their_rates(rates: dict[str, float], least: int, most: int) -> None:
    world = air(**rates)
    bus, speaker = link(world, "b", "x"), link(world, "a")
    for _ in range(100):
        speaker.publish("x", b"hello")
    settle(world)
    assert least < len(heard(bus)) < most


def test_a_cut_link_comes_back_and_sends_what_had_not_arrived() -> None:
    world = air(delay=1.0)
    bus, speaker = link(world, "b", "x"), link(world, "a")
    speaker.publish("x", b"on its way")
    speaker.cut(10.0)
    speaker.publish("x", b"said meanwhile")
    settle(world, 9.0)
    assert (heard(bus), speaker.up) == ([], False)
    settle(world)
    assert heard(bus) == [b"on its way", b"said meanwhile"]
    assert (speaker.up, speaker.connections) == (True, 2)


def test_a_cut_link_loses_what_came_down_but_for_what_is_retained() -> None:
    world = air(delay=1.0)
    bus, speaker = link(world, "b", "x", "y"), link(world, "a")
    speaker.publish("x", b"said")
    speaker.publish("y", b"kept", retain=True)
    while "y" not in world.retained:
        world.clock.step()
    bus.cut(5.0)
    settle(world)
    assert heard(bus) == [b"kept"]


def test_links_break_at_their_rate() -> None:
    world = air(cut=0.2)
    bus = link(world, "a", will=WILL)
    for _ in range(30):
        bus.publish("x", b"hello")
        settle(world, 100.0)
    assert 3 <= bus.connections <= 15


def test_the_will_is_told_when_the_broker_misses_its_client() -> None:
    world = air()
    bus = link(world, "a", will=WILL)
    assert world.retained[WILL.topic] == b"born"
    bus.die()
    settle(world, KEEPALIVE - 1)
    assert world.retained[WILL.topic] == b"born"
    settle(world, 2)
    assert world.retained[WILL.topic] == b"dead"


def test_a_new_life_is_told_after_the_will_of_the_old_one_and_that_never_again() -> None:
    world = air()
    listener = link(world, "b", WILL.topic)
    link(world, "a", will=WILL).die()
    link(world, "a", will=Will(WILL.topic, b"born again", b"dead again"))
    settle(world, 2 * KEEPALIVE)
    assert heard(listener) == [b"born", b"dead", b"born again"]


def test_a_short_absence_is_told_as_it_ends_and_a_goodbye_is_no_death() -> None:
    world = air()
    listener = link(world, "b", WILL.topic)
    bus = link(world, "a", will=WILL)
    bus.cut(5.0)
    settle(world)
    assert heard(listener) == [b"born", b"dead", b"born"]
    bus.publish(WILL.topic, b"away", retain=True)
    bus.close()
    settle(world, 2 * KEEPALIVE)
    assert heard(listener) == [b"away"]


def test_the_dead_say_nothing() -> None:
    world = air(delay=1.0)
    bus, speaker = link(world, "b", "x"), link(world, "a")
    speaker.publish("x", b"last words")
    speaker.die()
    speaker.publish("x", b"ghost")
    settle(world)
    assert heard(bus) == []


def test_the_trail_is_of_what_was_said_and_when() -> None:
    trails = []
    for delay, text in ((1.0, b"a"), (1.0, b"a"), (1.0, b"b"), (2.0, b"a")):
        world = air(delay=delay)
        link(world, "a").publish("x", text)
        settle(world)
        trails.append(world.trail.hexdigest())
    assert trails[0] == trails[1]
    assert len({*trails}) == 3
