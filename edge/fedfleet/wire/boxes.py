"""What lies between a bus's thread and its caller: two bounded queues, each with a lock of its own.

No lock is held while anything else is called, so neither side can wait for the other.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from fedfleet.wire.bus import Delivery

ARRIVALS, ARRIVAL_BYTES = 256, 32 * 1024 * 1024
MESSAGES, MESSAGE_BYTES = 8192, 64 * 1024 * 1024
FLYING_BYTES = 512 * 1024  # what a link of 7 kB/s carries within the time after which it is taken for dead
TRIES = 5


class Arrival(NamedTuple):
    """A delivery with what acknowledging it takes: the connection it came by, and its packet id (0: none wanted)."""

    delivery: Delivery
    connection: int
    packet: int


class Message(NamedTuple):
    """One message on its way out, and how many links were lost under it."""

    topic: str
    payload: bytes
    retain: bool
    tries: int = 0

    @property
    def size(self) -> int:
        """Bytes of the MQTT packet: fixed header, topic, packet id, no properties, payload."""
        rest = 2 + len(self.topic.encode()) + 2 + 1 + len(self.payload)
        return 1 + len([limit for limit in (0, 2**7, 2**14, 2**21) if rest >= limit]) + rest


class Inbox:
    """What has arrived and was not asked for yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals: deque[Arrival] = deque()
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether the reader is so far behind that nothing should be read from the network."""
        return len(self._arrivals) >= ARRIVALS or self._bytes >= ARRIVAL_BYTES

    def put(self, arrival: Arrival) -> None:
        """Add one; whoever fills it looks at `full` first."""
        with self._changed:
            self._arrivals.append(arrival)
            self._bytes += len(arrival.delivery.payload)
            self._changed.notify()

    def take(self, timeout: float) -> list[Arrival]:
        """Return all there is, waiting up to `timeout` seconds for the first."""
        with self._changed:
            if timeout > 0:
                self._changed.wait_for(lambda: self._arrivals, timeout)
            found = list(self._arrivals)
            self._arrivals.clear()
            self._bytes = 0
        return found


class Outbox:
    """What waits to be sent, and what flies: sent and not acknowledged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._flying: dict[int, Message | None] = {}
        self._waiting_bytes = 0
        self._flying_bytes = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting) + len(self._flying)

    def put(self, message: Message) -> bool:
        """Add one, or return False where there is no room for it.

        The newest is refused, not the oldest: what matters is said again until it is answered, so what waits is what
        it would repeat.
        """
        with self._lock:
            if len(self._waiting) >= MESSAGES or self._waiting_bytes + message.size > MESSAGE_BYTES:
                return False
            self._waiting.append(message)
            self._waiting_bytes += message.size
            return True

    def next(self, window: int) -> Message | None:
        """Return the message to send now, if `window` messages and FLYING_BYTES leave room for one."""
        with self._lock:
            if not self._waiting or len(self._flying) >= window:
                return None
            if self._flying_bytes and self._flying_bytes + self._waiting[0].size > FLYING_BYTES:
                return None
            message = self._waiting.popleft()
            self._waiting_bytes -= message.size
            return message

    def flies(self, packet: int, message: Message | None) -> None:
        """Note what was sent as `packet`; None for what is said anew at every connection."""
        with self._lock:
            self._flying[packet] = message
            self._flying_bytes += message.size if message else 0

    def landed(self, packet: int) -> Message | None:
        """Note that the broker has `packet`; returns what it was."""
        with self._lock:
            message = self._flying.pop(packet, None)
            self._flying_bytes -= message.size if message else 0
            return message

    def lost(self) -> list[Message]:
        """The link is lost: what flew waits again, before all else; returns what is given up after TRIES links.

        A message that a broker hangs up on would otherwise be sent first at every connection, and nothing after it.
        """
        with self._lock:
            again = [message._replace(tries=message.tries + 1) for message in self._flying.values() if message]
            kept = [message for message in again if message.tries < TRIES]
            self._waiting.extendleft(reversed(kept))
            self._waiting_bytes += sum(message.size for message in kept)
            self._flying, self._flying_bytes = {}, 0
            return [message for message in again if message.tries >= TRIES]
