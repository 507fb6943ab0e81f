"""The MQTT bus: MQTT 5 where the broker speaks it, 3.1.1 where not, made again for as long as the bus is open.

All messages go at QoS 1; a PUBACK proves nothing, so receipts are the protocol's business. Sessions are clean: what is
retained comes with the subscriptions, and what was not acknowledged is published again, so a broker need keep nothing
for clients that may never come back.

Back-pressure is in the acknowledgements: a broker sends no more than Receive Maximum (3.1.1: its own limit) before the
reader has taken what is there. One that minds neither is no longer read from when the inbox is full; where that lasts
for longer than the keepalive, the link is given up and made again.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from fedfleet.wire import tls
from fedfleet.wire.backoff import Backoff
from fedfleet.wire.boxes import Arrival, Message
from fedfleet.wire.bus import Delivery, Will
from fedfleet.wire.errors import BusDown, TooLarge
from fedfleet.wire.keeper import Keeper, refusal
from fedfleet.wire.link import Who
from fedfleet.wire.settings import Broker


class MqttBus:
    """A bus by way of `broker`, for one thread to use."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        will: Will | None = None,
        *,
        wait: float = 15.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Connect, or raise BusDown with reason and remedy within `wait` seconds; with 0, go on trying for ever.

        `jitter` draws from [0, 1) for the pauses between connections. Raises SettingsError for a password, a
        certificate or a key that cannot be had.
        """
        if broker.tls:
            tls.context(broker)  # the owner's mistakes end the process, not the thread
        self.sent = 0
        self.received = 0
        self._unacknowledged: list[Arrival] = []
        who = Who(broker, client_id, broker.password, will)
        self._keeper = Keeper(who, Backoff(jitter), patient=not wait)
        if wait:
            answered = self._keeper.answered.wait(wait)
            if not self._keeper.connections:  # one that was made, and lost in the same moment, is made again
                self._keeper.stop()
                raise BusDown(self._keeper.reason if answered else refusal(who, f"no answer within {wait:g} s"))

    @property
    def pending(self) -> int:
        """Messages published that the broker has not acknowledged."""
        return len(self._keeper.outbox)

    @property
    def connections(self) -> int:
        """How often the link has been made."""
        return self._keeper.connections

    @property
    def dropped(self) -> int:
        """Messages given up: no room while the link was down, or over a limit of the broker's."""
        return self._keeper.dropped

    @property
    def reason(self) -> str:
        """Why the link is down, in one line; empty while it is up."""
        return self._keeper.reason

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send `payload`; while the link is down it waits in memory, as far as there is room.

        Raises TooLarge for what the broker would hang up on, as far as it has said so.
        """
        message, largest = Message(topic, payload, retain), self._keeper.largest
        if message.size > largest:
            raise TooLarge(f"{topic}: {message.size} bytes, and the broker takes {largest}; raise its max_packet_size")
        self.sent += len(topic) + len(payload)
        if self._keeper.outbox.put(message):
            self._keeper.stir()
        else:
            self._keeper.drop(message, "too much waits for the broker already")

    def subscribe(self, pattern: str) -> None:
        """Ask for all topics that match `pattern`."""
        if pattern not in self._keeper.patterns:
            self._keeper.patterns.append(pattern)
        self._keeper.order(lambda link: link.subscribe(pattern))

    def unsubscribe(self, pattern: str) -> None:
        """Take a subscription back."""
        if pattern in self._keeper.patterns:
            self._keeper.patterns.remove(pattern)
        self._keeper.order(lambda link: link.unsubscribe(pattern))

    def deliveries(self, timeout: float) -> list[Delivery]:
        """Return what has arrived, waiting up to `timeout` seconds for the first; acknowledges the ones before."""
        self._acknowledge()
        self._unacknowledged = self._keeper.inbox.take(timeout)
        if self._unacknowledged:
            self._keeper.stir()  # the thread may have waited for room
        found = [arrival.delivery for arrival in self._unacknowledged]
        self.received += sum(len(topic) + len(payload) for topic, payload in found)
        return found

    def close(self) -> None:
        """Send what waits, as far as the broker takes it within 5 s, and leave without a last will."""
        self._acknowledge()
        self._keeper.stop()

    def _acknowledge(self) -> None:
        if self._unacknowledged:
            done, self._unacknowledged = self._unacknowledged, []
            self._keeper.order(lambda link: link.acknowledge(done))
