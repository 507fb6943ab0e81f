"""The one seam to the network: what a bus does, whichever broker or none is behind it."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Delivery(NamedTuple):
    """One message that arrived; an empty payload says that a retained one was cleared."""

    topic: str
    payload: bytes


class Bus(Protocol):
    """Publish and subscribe with at-least-once delivery; a subscription brings the retained messages first.

    A delivery is acknowledged to the broker when the next ones are asked for, so that what a reader had journaled by
    then survives a crash and what it had not is delivered again.
    """

    @property
    def sent(self) -> int:
        """Bytes published so far: topics and payloads."""

    @property
    def received(self) -> int:
        """Bytes delivered so far: topics and payloads."""

    @property
    def pending(self) -> int:
        """Messages published that the broker has not acknowledged; who has a lot to say keeps it below a window."""

    @property
    def connections(self) -> int:
        """How often the link has been made; a broker may have lost its memory when this has grown."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send `payload`; with `retain` the broker keeps it as the topic's newest, an empty one clears it."""

    def subscribe(self, pattern: str) -> None:
        """Ask for all topics that match `pattern` (`+` one level); kept across reconnections."""

    def unsubscribe(self, pattern: str) -> None:
        """Take a subscription back."""

    def deliveries(self, timeout: float) -> list[Delivery]:
        """Return what has arrived, waiting up to `timeout` seconds for the first."""

    def close(self) -> None:
        """Leave without a last will."""


class Will(NamedTuple):
    """What a bus says for its owner: `birth` at every connection, `death` by the broker when it is lost; retained."""

    topic: str
    birth: bytes
    death: bytes


def matches(pattern: str, topic: str) -> bool:
    """Whether `topic` is one that `pattern` asks for; `+` stands for one level, `#` is not used here."""
    wanted, levels = pattern.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(want in ("+", level) for want, level in zip(wanted, levels))
