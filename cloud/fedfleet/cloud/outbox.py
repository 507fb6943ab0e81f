"""What the cloud has the broker retain: programs and weights in chunks, and the newest task after what it names.

No more is handed to the link than it carries away, so a model of any size takes no memory here. A chunk that two blobs
share is sent once, and cleared when no blob that is wanted has it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from fedfleet.cloud.blobs import Blobs
from fedfleet.wire.bus import Bus
from fedfleet.wire.chunks import chunk_name, manifest, only_name
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob
from fedfleet.wire.topics import Topics

HASTE = 0.005  # seconds to wait for deliveries while there is something to send
FAREWELL = 5.0
AHEAD = 16  # messages handed to the link and not yet acknowledged by the broker
AGAIN = 30.0  # seconds in which a blob that many devices miss is said again once


class Outbox:
    """What waits to be retained or cleared, in order."""

    def __init__(self, bus: Bus, topics: Topics, blobs: Blobs, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._topics = topics
        self._kept = blobs
        self._clock = clock
        self._queue: deque[tuple[str, bytes | None]] = deque()
        self._blobs: dict[Blob, list[str]] = {}
        self._repeated: dict[Blob, float] = {}
        self._said: dict[str, bytes] = {}
        self._link = bus.connections

    @property
    def idle(self) -> bool:
        """Whether everything has been handed to the link."""
        return not self._queue

    def put(self, blob: Blob) -> None:
        """Have `blob`, which is among those kept, retained. Raises StoreError."""
        if blob in self._blobs:
            return
        known = self._live()
        self._blobs[blob] = self._kept.names(blob)
        self._queue_all(blob, [name for name in self._blobs[blob] if name not in known], None)

    def drop(self, blob: Blob) -> None:
        """Have cleared what no other blob needs of `blob`; also of one that an earlier aggregator has put there."""
        names = self._blobs.pop(blob, None) or self._kept.names(blob) or [only_name(blob)]
        known = self._live()
        self._queue_all(blob, [name for name in names if name not in known], b"")

    def say(self, topic: str, payload: bytes) -> None:
        """Have `payload` retained after all that was put before; said again whenever the link is made anew."""
        self._said[topic] = payload
        self._queue.append((topic, payload))

    def repeat(self, names: Iterable[str]) -> None:
        """Retain again what a device waits for in vain, and all that belongs to it.

        A broker that was killed has forgotten everything: to wait for each chunk to be missed would take for ever.
        """
        wanted, now = set(names), self._clock()
        for blob, chunks in self._blobs.items():
            missed = blob.digest in wanted or not wanted.isdisjoint(chunks)
            if missed and now - self._repeated.get(blob, -AGAIN) >= AGAIN:
                self._repeated[blob] = now
                self._queue_all(blob, sorted(chunks, key=lambda name: name not in wanted), None)

    def step(self) -> None:
        """Hand the link what it takes. Raises StoreError where what is to be sent has been lost."""
        if self._bus.connections != self._link:
            self._link = self._bus.connections
            self._queue.extend(self._said.items())
        while self._queue and self._bus.pending < AHEAD:
            topic, payload = self._queue.popleft()
            payload = self._content(topic) if payload is None else payload
            if payload is not None:
                self._bus.publish(topic, payload, retain=True)

    def farewell(self) -> None:
        """Hand the link all that waits, as far as it takes it within 5 s."""
        end = self._clock() + FAREWELL
        while not self.idle and self._clock() < end:
            self.step()
            self._bus.deliveries(HASTE)

    def _live(self) -> set[str]:
        return {name for names in self._blobs.values() for name in names}

    def _queue_all(self, blob: Blob, names: Iterable[str], payload: bytes | None) -> None:
        topics = [self._topics.manifest(blob.digest)] if blob.chunks > 1 else []
        topics += [self._topics.chunk(name) for name in dict.fromkeys(names)]
        self._queue.extend((topic, payload) for topic in topics)

    def _content(self, topic: str) -> bytes | None:
        """Return what is to be retained under `topic`; None if nothing that has it is wanted any more."""
        kind, name = self._topics.named(topic)
        for blob, names in self._blobs.items():
            if kind == "blob" and name == blob.digest:
                return manifest(blob, names)
            if kind == "chunk" and name in names:
                chunk = self._kept.chunk(blob, names.index(name))
                if chunk_name(chunk) != name:
                    raise StoreError(f"blob {blob.digest[:12]} on the disk is damaged; restore a backup")
                return chunk
        return None
