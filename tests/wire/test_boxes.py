"""The two queues between a bus's thread and its caller."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.wire import boxes
from fedfleet.wire.boxes import ARRIVAL_BYTES, ARRIVALS, FLYING_BYTES, MESSAGES, TRIES, Arrival, Inbox, Message, Outbox
from fedfleet.wire.bus import Delivery


def arrival(number: int, size: int = 1) -> Arrival:
    return Arrival(Delivery(f"t/{number}", bytes(size)), 1, number)


def message(number: int, size: int = 1) -> Message:
    return Message(f"t/{number}", bytes(size), retain=False)


def test_the_inbox_gives_all_at_once_in_order() -> None:
    inbox = Inbox()
    for number in range(3):
        inbox.put(arrival(number))
    assert [found.packet for found in inbox.take(0)] == [0, 1, 2]
    assert inbox.take(0) == []


def test_the_inbox_is_full_by_number_and_by_bytes_until_it_is_emptied() -> None:
    inbox = Inbox()
    for number in range(ARRIVALS - 1):
        inbox.put(arrival(number))
    assert not inbox.full
    inbox.put(arrival(0))
    assert inbox.full
    inbox.take(0)
    assert not inbox.full
    inbox.put(arrival(0, ARRIVAL_BYTES))
    assert inbox.full
    inbox.take(0)
    assert not inbox.full


def test_a_reader_is_woken_by_what_arrives() -> None:
    inbox = Inbox()
    began = time.monotonic()
    threading.Timer(0.05, inbox.put, [arrival(1)]).start()
    assert [found.packet for found in inbox.take(10)] == [1]
    assert time.monotonic() - began < 5
    assert inbox.take(0.01) == []


def test_the_outbox_sends_in_order_within_its_window() -> None:
    outbox = Outbox()
    assert all(outbox.put(message(number)) for number in range(5))
    for packet in (1, 2):
        outbox.flies(packet, outbox.next(2))
    assert outbox.next(2) is None
    assert len(outbox) == 5
    assert outbox.landed(1) == message(0)
    assert outbox.next(2) == message(2)


def test_large_messages_fly_one_by_one() -> None:
    outbox = Outbox()
    for number in range(3):
        assert outbox.put(message(number, FLYING_BYTES))
    outbox.flies(1, outbox.next(20))
    assert outbox.next(20) is None  # however slow the link, the broker says something between two of them
    outbox.landed(1)
    assert outbox.next(20) is not None


def test_the_newest_is_refused_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox()
    assert all(outbox.put(message(number)) for number in range(MESSAGES))
    assert not outbox.put(message(0))
    assert outbox.next(1) == message(0)
    assert outbox.put(message(0))
    monkeypatch.setattr(boxes, "MESSAGE_BYTES", 1000)
    outbox = Outbox()
    assert outbox.put(message(0, 600))
    assert not outbox.put(message(1, 600))
    assert outbox.next(1) == message(0, 600)
    assert outbox.put(message(1, 600))


def test_what_flew_is_sent_again_first_and_in_order() -> None:
    outbox = Outbox()
    for number in range(4):
        outbox.put(message(number))
    for packet in (7, 8):
        outbox.flies(packet, outbox.next(9))
    outbox.flies(9, None)  # a birth: said anew by itself
    assert outbox.lost() == []
    assert [found and found.topic for found in (outbox.next(9) for _ in range(5))] == ["t/0", "t/1", "t/2", "t/3", None]
    assert outbox.landed(7) is None  # acknowledged by a broker that is no more


def test_what_no_link_survives_is_given_up() -> None:
    outbox = Outbox()
    outbox.put(message(1))
    for lost in range(TRIES):
        found = outbox.next(9)
        assert found is not None
        assert found.tries == lost
        outbox.flies(lost, found)
        given_up = outbox.lost()
        assert [gone.topic for gone in given_up] == (["t/1"] if lost == TRIES - 1 else [])
    assert outbox.next(9) is None
    assert len(outbox) == 0


@given(st.integers(0, 300), st.sampled_from([0, 1, 100, 121, 122, 123, 16_375, 16_376, 16_377, 2_097_140, 2_097_150]))
def test_the_size_of_a_packet_is_what_mqtt_says(topic: int, payload: int) -> None:
    rest = 2 + topic + 2 + 1 + payload
    digits = 1 + (rest > 127) + (rest > 16_383) + (rest > 2_097_151)
    assert Message("t" * topic, bytes(payload), retain=False).size == 1 + digits + rest


@given(st.lists(st.sampled_from(["put", "next", "land", "lose"]), max_size=60))
def test_nothing_is_lost_or_doubled_whatever_happens(steps: list[str]) -> None:
    outbox, waiting, flying, number = Outbox(), list[Message](), dict[int, Message](), 0
    for step in steps:
        if step == "put":
            number += 1
            outbox.put(message(number))
            waiting.append(message(number))
        elif step == "next" and (found := outbox.next(5)):
            number += 1
            assert found.topic == waiting.pop(0).topic
            outbox.flies(number, found)
            flying[number] = found
        elif step == "land" and flying:
            packet = next(iter(flying))
            assert outbox.landed(packet) == flying.pop(packet)
        elif step == "lose":
            gone = {lost.topic for lost in outbox.lost()}
            waiting = [one for one in flying.values() if one.topic not in gone] + waiting
            flying = {}
        assert len(outbox) == len(waiting) + len(flying)
