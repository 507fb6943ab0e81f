"""A broker and the links to it in virtual time: what QoS 1 promises, kept as badly as the field keeps it.

Messages of one link stay in order but for those that are overtaken. A link that breaks loses what is on its way down;
what was on its way up is sent again over the next one. The broker tells the last will when it misses its device, at the
latest when that comes back. A queue that overflows loses messages without a word.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from fedfleet.sim.virtual.clock import Clock
from fedfleet.sim.virtual.faults import Faults, luck
from fedfleet.wire.bus import Delivery, Will, matches

KEEPALIVE = 90.0  # seconds of silence after which the broker misses a device
AWAY = 60.0  # seconds that a broken link takes to come back, at most
CROWD = 10_000  # retained messages above which a subscription brings them in one piece
HELD = 5.0  # seconds by which a message comes late that others overtake, or comes again, at most


class Message(NamedTuple):
    """Something published."""

    topic: str
    payload: bytes
    retain: bool


class Air:
    """The broker. `trail` is the digest of all that passed it, and when: two runs that agree in that were the same."""

    def __init__(self, clock: Clock, faults: Faults, seed: int) -> None:
        self.retained: dict[str, bytes] = {}
        self.trail = hashlib.sha256()
        self.clock = clock
        self.faults = faults
        self.seed = seed
        self._sessions: dict[str, AirBus] = {}
        # dicts, not sets: who listens is told in the order of subscription
        self._exact: dict[str, dict[AirBus, None]] = {}
        self._wide: dict[str, dict[AirBus, None]] = {}
        self._watched: dict[str, Callable[[bytes], None]] = {}

    def connect(self, name: str, will: Will | None, wake: Callable[[], None], since: int = 0) -> AirBus:
        """Return a link for the client `name`, whose earlier one ends; `wake` is called when something arrives.

        With `since`, a number that grows from call to call, it is a link that has been there all along.
        """
        if earlier := self._sessions.get(name):
            earlier.end()
        bus = AirBus(self, name, will, wake, earlier.numbers if earlier else {"up": since << 20, "down": since << 20})
        self._sessions[name] = bus
        bus.open(silent=since > 0)
        return bus

    def forget(self, name: str) -> None:
        """Drop the link of a client that says nothing for a while, though it has not gone."""
        self._sessions.pop(name).leave()

    def watch(self, topic: str, act: Callable[[bytes], None]) -> None:
        """Have `act` called with whatever passes the broker on `topic`."""
        self._watched[topic] = act

    def route(self, message: Message) -> None:
        """Hand a message to all that listen, and keep it if it is to be retained."""
        topic, payload, retain = message
        self.trail.update(f"{self.clock.now!r} {topic} {len(payload)} ".encode() + payload)
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for bus in self._listening(topic):
            bus.offer(Delivery(topic, payload))
        if act := self._watched.get(topic):
            act(payload)

    def listen(self, pattern: str, bus: AirBus) -> None:
        """Have `bus` hear what matches `pattern`, first of all what is retained."""
        (self._wide if "+" in pattern else self._exact).setdefault(pattern, {})[bus] = None
        kept = [Delivery(topic, self.retained[topic]) for topic in self._kept(pattern)]
        if len(kept) > CROWD:
            bus.flood(kept)
            return
        for delivery in kept:
            bus.offer(delivery)

    def leave(self, pattern: str, bus: AirBus) -> None:
        """Have `bus` hear no more of `pattern`."""
        table = self._wide if "+" in pattern else self._exact
        if pattern in table:
            table[pattern].pop(bus, None)
            if not table[pattern]:
                del table[pattern]

    def _listening(self, topic: str) -> list[AirBus]:
        found = list(self._exact.get(topic, ()))
        for pattern, buses in self._wide.items():
            if topic.endswith(pattern.rpartition("+")[2]) and matches(pattern, topic):  # most are told apart by the end
                found += buses
        return found

    def _kept(self, pattern: str) -> Iterator[str]:
        if "+" not in pattern:
            return iter([pattern] if pattern in self.retained else [])
        before, _, after = pattern.partition("+")
        fits = [topic for topic in self.retained if topic.startswith(before) and topic.endswith(after)]
        return (topic for topic in fits if matches(pattern, topic))


class AirBus:
    """One client's link; a `Bus`."""

    def __init__(
        self, air: Air, name: str, will: Will | None, wake: Callable[[], None], numbers: dict[str, int]
    ) -> None:
        """`numbers` counts the client's messages either way, in all its lives: each has a luck of its own."""
        self.numbers = numbers
        self.sent = 0
        self.received = 0
        self.pending = 0  # the air takes whatever it is given
        self.connections = 0
        self.up = False
        self._air = air
        self._name = name
        self._will = will
        self._wake = wake
        self._missed = False  # the broker has a will to tell
        self._over = False
        self._patterns: dict[str, None] = {}
        self._flying: dict[int, Message] = {}
        self._inbox: deque[Delivery] = deque()
        self._last = {"up": 0.0, "down": 0.0}

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send `payload`, over the next link if this one is broken."""
        self.sent += len(topic) + len(payload)
        self._fly(Message(topic, payload, retain))

    def subscribe(self, pattern: str) -> None:
        """Ask for what matches `pattern`."""
        self._patterns[pattern] = None
        if self.up:
            self._ask(pattern)

    def unsubscribe(self, pattern: str) -> None:
        """Stop listening."""
        self._patterns.pop(pattern, None)
        self._air.leave(pattern, self)

    def deliveries(self, timeout: float) -> list[Delivery]:
        """Return what has arrived; never waits."""
        found = list(self._inbox)
        self._inbox.clear()
        return found

    def close(self) -> None:
        """Leave without a last will, once all that was said has arrived."""
        flying = list(self._flying.values())
        self.leave()
        for message in flying:
            self._air.route(message)

    def die(self) -> None:
        """Lose power: nothing that is on its way arrives."""
        self._break()
        self._over = True
        self._flying.clear()

    def cut(self, away: float) -> None:
        """Lose the link for `away` seconds."""
        if self.up:
            self._break()
            self._air.clock.at(self._air.clock.now + away, partial(self._back, self.connections))

    def open(self, *, silent: bool = False) -> None:
        """Connect: the birth first, unless `silent`, then the subscriptions, then what waits to be sent."""
        self._tell(self.connections)
        self.up = True
        self.connections += 1
        self._last = {"up": 0.0, "down": 0.0}
        waiting, self._flying = self._flying, {}
        self._missed = self._will is not None
        if self._will and not silent:
            self._fly(Message(self._will.topic, self._will.birth, retain=True))
        for pattern in self._patterns:
            self._ask(pattern)
        for message in waiting.values():
            self._fly(message)
        self._wake()

    @property
    def quiet(self) -> bool:
        """Whether the link is up and all that was said has arrived."""
        return self.up and not self._flying

    def leave(self) -> None:
        """Be no more, without a word to anyone."""
        self._missed = False
        self._break()
        self._over = True

    def end(self) -> None:
        """A client of the same name takes over."""
        self._break()
        self._over = True
        self._tell(self.connections)

    def offer(self, delivery: Delivery) -> None:
        """At the broker: send `delivery` down."""
        chance, faults = self._chance("down"), self._air.faults
        if chance[0] < faults.lose:
            return
        act = partial(self._arrive, self.connections, delivery)
        self._air.clock.at(self._arrival("down", chance), act)
        if chance[1] < faults.repeat:
            self._air.clock.at(self._air.clock.now + HELD * chance[2], act)
        if chance[3] < faults.cut and self._will:
            self.cut(AWAY * chance[4])

    def flood(self, deliveries: list[Delivery]) -> None:
        """At the broker: send them all down at once, and none of them goes wrong."""
        when = self._arrival("down", self._chance("down"), strict=True)
        self._air.clock.at(when, partial(self._arrive, self.connections, *deliveries))

    def _arrive(self, link: int, *deliveries: Delivery) -> None:
        if self.up and link == self.connections:
            self.received += sum(len(topic) + len(payload) for topic, payload in deliveries)
            self._inbox += deliveries
            self._wake()

    def _ask(self, pattern: str) -> None:
        self._air.clock.at(
            self._arrival("up", self._chance("up"), strict=True), partial(self._asked, self.connections, pattern)
        )

    def _asked(self, link: int, pattern: str) -> None:
        if self.up and link == self.connections and pattern in self._patterns:
            self._air.listen(pattern, self)

    def _fly(self, message: Message) -> None:
        if self._over:
            return
        chance = self._chance("up")
        number = self.numbers["up"]
        self._flying[number] = message
        if self.up:
            when = self._arrival("up", chance)
            self._air.clock.at(when, partial(self._land, self.connections, number, chance))

    def _land(self, link: int, number: int, chance: tuple[float, ...]) -> None:
        """At the broker: a message has come up."""
        if not self.up or link != self.connections:
            return
        message, faults = self._flying.pop(number), self._air.faults
        if chance[1] < faults.repeat and not message.retain:
            self._air.clock.at(self._air.clock.now + HELD * chance[2], partial(self._air.route, message))
        if chance[3] < faults.cut and self._will:
            if chance[5] < 0.5:  # its acknowledgement is lost with the link, so it will come again
                self._flying[number] = message
            self.cut(AWAY * chance[4])
        self._air.route(message)

    def _arrival(self, way: str, chance: tuple[float, ...], *, strict: bool = False) -> float:
        """When a message that is sent now is there."""
        faults = self._air.faults
        when = self._air.clock.now + 2 * faults.delay * chance[6]
        if chance[7] < faults.reorder and not strict:
            return when + HELD * chance[5]
        self._last[way] = max(when, self._last[way])
        return self._last[way]

    def _chance(self, way: str) -> tuple[float, ...]:
        self.numbers[way] += 1
        return luck(self._air.seed, way, self.numbers[way], self._name)

    def _break(self) -> None:
        self.up = False
        self._inbox.clear()
        for pattern in self._patterns:
            self._air.leave(pattern, self)
        self._air.clock.at(self._air.clock.now + KEEPALIVE, partial(self._tell, self.connections))

    def _back(self, link: int) -> None:
        if link == self.connections and not self.up and not self._over:
            self.open()

    def _tell(self, link: int) -> None:
        """At the broker: tell the last will, if the link with that number is still missed."""
        if self._missed and not self.up and link == self.connections and self._will:
            self._missed = False
            self._air.route(Message(self._will.topic, self._will.death, retain=True))
