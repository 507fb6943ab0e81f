"""The device's next certificate, asked for while the agent goes on with its work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fedfleet.edge.enrol import Asking
from fedfleet.edge.identity import Identity
from fedfleet.wire.bus import Bus, Delivery
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.agent")
REST = 3600.0  # seconds that are waited where the disk, or the command openssl, fails us


class Renewing:
    """A bus that asks for the device's next certificate when the present one is about to end, beside the agent's talk.

    The link stays as it is; the next one is made with the new certificate. So neither the agent nor a training stops.
    """

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        topics: Topics,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns monotonic seconds, `calendar` those since 1970. Raises StoreError without a certificate."""
        self._bus = bus
        self._identity = identity
        self._calendar = calendar
        self._due = identity.known().due()
        self._asking = Asking(identity, topics, identity.device, "", str(identity.path), clock)
        bus.subscribe(self._asking.answers)

    @property
    def sent(self) -> int:
        """Bytes published so far: topics and payloads."""
        return self._bus.sent

    @property
    def received(self) -> int:
        """Bytes delivered so far: topics and payloads."""
        return self._bus.received

    @property
    def pending(self) -> int:
        """Messages published that the broker has not acknowledged."""
        return self._bus.pending

    @property
    def connections(self) -> int:
        """How often the link has been made."""
        return self._bus.connections

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send `payload`."""
        self._bus.publish(topic, payload, retain=retain)

    def subscribe(self, pattern: str) -> None:
        """Ask for all topics that match `pattern`."""
        self._bus.subscribe(pattern)

    def unsubscribe(self, pattern: str) -> None:
        """Take a subscription back."""
        self._bus.unsubscribe(pattern)

    def deliveries(self, timeout: float) -> list[Delivery]:
        """Return what has arrived, but for answers about certificates; asks for the next one when it is time."""
        found = self._bus.deliveries(timeout)
        answers = [payload for topic, payload in found if topic == self._asking.answers]
        if self._calendar() >= self._due:
            self._renew(answers)
        return [delivery for delivery in found if delivery.topic != self._asking.answers]

    def close(self) -> None:
        """Leave without a last will."""
        self._bus.close()

    def _renew(self, answers: list[bytes]) -> None:
        try:
            if self._asking.step(self._bus, answers):
                self._due = self._identity.known().due()
        except FedfleetError as error:
            log.error("the next certificate: %s; trying again in %g s", error, REST)
            self._due = self._calendar() + REST
