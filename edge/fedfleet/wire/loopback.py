"""A broker in memory: the same contract as MQTT, no sockets and no threads, so that a run is reproducible."""

from __future__ import annotations

from collections import deque

from fedfleet.wire.bus import Delivery, Will, matches


class Hub:
    """What the buses of one process share: retained messages and who listens to what."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.buses: list[LoopbackBus] = []

    def connect(self, will: Will | None = None) -> LoopbackBus:
        """Return a new bus at this hub, its birth published."""
        bus = LoopbackBus(self, will)
        self.buses.append(bus)
        if will:
            bus.publish(will.topic, will.birth, retain=True)
        return bus

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        """Hand `payload` to all that listen, and keep it if it is to be retained."""
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for bus in self.buses:
            bus.offer(topic, payload)


class LoopbackBus:
    """One client of a `Hub`."""

    def __init__(self, hub: Hub, will: Will | None) -> None:
        self.sent = 0
        self.received = 0
        self.pending = 0
        self.connections = 1
        self._hub = hub
        self._will = will
        self._patterns: set[str] = set()
        self._inbox: deque[Delivery] = deque()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Deliver at once."""
        self.sent += len(topic) + len(payload)
        self._hub.publish(topic, payload, retain)

    def subscribe(self, pattern: str) -> None:
        """Listen, and receive what is retained."""
        self._patterns.add(pattern)
        for topic, payload in list(self._hub.retained.items()):
            if matches(pattern, topic):
                self._take(topic, payload)

    def unsubscribe(self, pattern: str) -> None:
        """Stop listening."""
        self._patterns.discard(pattern)

    def deliveries(self, timeout: float) -> list[Delivery]:
        """Return what has arrived; never waits, since whoever would publish runs in this process."""
        found = list(self._inbox)
        self._inbox.clear()
        return found

    def close(self) -> None:
        """Leave the hub."""
        if self in self._hub.buses:
            self._hub.buses.remove(self)

    def die(self) -> None:
        """Leave as a crash does: the hub publishes the last will."""
        self.close()
        if self._will:
            self._hub.publish(self._will.topic, self._will.death, retain=True)

    def offer(self, topic: str, payload: bytes) -> None:
        """Take a message if one of the subscriptions asks for it."""
        if any(matches(pattern, topic) for pattern in self._patterns):
            self._take(topic, payload)

    def _take(self, topic: str, payload: bytes) -> None:
        self.received += len(topic) + len(payload)
        self._inbox.append(Delivery(topic, payload))
