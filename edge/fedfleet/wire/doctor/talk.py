"""One short conversation with a broker: what it answers, what it delivers, and whether it lets us stay."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from paho.mqtt.enums import MQTTProtocolVersion

from fedfleet.wire.boxes import Inbox, Message, Outbox
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.link import LARGEST_OUT, VERSIONS, Link, Who
from fedfleet.wire.settings import Broker

ANSWER = 10.0  # seconds for the broker's answer to a greeting
STAY = 5.0  # seconds: another client of the same name, thrown out by us, comes back within 4 as a rule (backoff.py)
TICK = 0.2
UNSUPPORTED = 132  # CONNACK: the broker does not speak this version of MQTT


class Say(NamedTuple):
    """What to say, which must come back to us; empty for nothing. And what else to listen to."""

    topic: str = ""
    payload: bytes = b""
    retain: bool = False
    reads: tuple[str, ...] = ()


@dataclass
class Talk:
    """What came of it. `answer` is the CONNACK's reason code, -1 where none came; `said` is why the link ended.

    `newer` is whether the broker answers to MQTT 5, where only 3.1.1 was to be spoken and nothing came.
    """

    version: int = 5
    answer: int = -1
    newer: bool = False
    words: str = ""
    said: str = ""
    lost: bool = False
    largest: int = LARGEST_OUT
    denied: str = ""
    delivered: dict[str, bytes] = field(default_factory=dict)


def talk(broker: Broker, name: str, say: Say, stay: float = STAY) -> Talk:
    """Greet the broker as `name`, say `say`, and listen for `stay` seconds. Never raises for what a broker does."""
    found = _talk(broker, name, say, stay)
    if found.answer == -1 and broker.mqtt == 3:  # paho hangs up on a broker that wants another version
        found.newer = _talk(replace(broker, mqtt=5), name, Say(), 0).answer == 0
    return found


def _talk(broker: Broker, name: str, say: Say, stay: float) -> Talk:
    found = Talk()
    for version in VERSIONS[broker.mqtt]:
        found = Talk(5 if version == MQTTProtocolVersion.MQTTv5 else 3)
        try:
            _converse(found, Who(broker, name, broker.password, None), version, say, stay)
        except (OSError, SettingsError) as error:
            found.said = str(error)
        if found.answer not in (-1, UNSUPPORTED) or "alert" in found.said.lower():
            break
    return found


def _converse(found: Talk, who: Who, version: MQTTProtocolVersion, say: Say, stay: float) -> None:
    inbox, outbox = Inbox(), Outbox()
    link = Link(who, version, inbox, outbox, 1)
    with _waker() as wake:
        try:
            link.open()
            end = time.monotonic() + ANSWER
            while link.answer is None and time.monotonic() < end and link.turn(wake, TICK):
                pass
            found.said = link.said
            if link.answer is not None:
                found.answer, found.words, found.largest = link.answer.value, str(link.answer), link.largest
            if link.answer is not None and not link.answer.is_failure:
                _listen(found, link, wake, inbox, say, stay)
        finally:
            link.drop()


def _listen(found: Talk, link: Link, wake: socket.socket, inbox: Inbox, say: Say, stay: float) -> None:
    for pattern in (*say.reads, *([say.topic] if say.topic else [])):
        link.subscribe(pattern)
    if say.topic:
        link.publish(Message(say.topic, say.payload, say.retain))
    end = time.monotonic() + stay
    while time.monotonic() < end and not found.lost:
        found.lost = not link.turn(wake, TICK)
        arrivals = inbox.take(0)
        found.delivered.update(arrival.delivery for arrival in arrivals)
        link.acknowledge(arrivals)
    found.said, found.denied = link.said, link.denied
    if not found.lost:
        link.leave()
        link.turn(wake, TICK)


@contextmanager
def _waker() -> Iterator[socket.socket]:
    """A socket in which nothing ever arrives, for `Link.turn` to look at."""
    wake, other = socket.socketpair()
    with wake, other:
        yield wake
