"""How a device gets its certificate, by a claim that its owner has put on the board, and later the next one.

Crash-only: the key is kept before it is asked for, the certificate before the claim is scrubbed, and each step again
comes to the same. What is refused is asked again, more and more seldom: the owner may mend it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedfleet.edge.identity import Identity, read
from fedfleet.edge.settings import AgentSettings
from fedfleet.wire import files
from fedfleet.wire.backoff import Backoff
from fedfleet.wire.bus import Bus
from fedfleet.wire.enrolment import CLAIM, Enrol, open_enrolled, pack_enrol
from fedfleet.wire.errors import FrameError, SettingsError, StoreError
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.agent")
POLL = 0.2
SHORTEST = 1.0  # seconds between two questions, whatever the dice say


class Asking:
    """Asks for a certificate in the name `by` until there is one. `step` it with what arrives at its `answers`."""

    def __init__(
        self,
        identity: Identity,
        topics: Topics,
        by: str,
        group: str,
        ca: str,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`clock` returns monotonic seconds; the certificate must come from the authority in the file `ca`."""
        self.answers = topics.answer(by)
        self._identity = identity
        self._topic = topics.request(by)
        self._group = group
        self._ca = ca
        self._clock = clock
        self._backoff = Backoff(jitter)
        self._next = 0.0
        self._said = ""

    def step(self, bus: Bus, answers: list[bytes]) -> bool:
        """Take `answers`, and ask when it is time; returns whether the certificate is there."""
        try:
            if any(map(self._taken, answers)):
                return True
            if self._clock() >= self._next:
                self._next = self._clock() + SHORTEST + self._backoff.pause(0, refused=self._said == "refused")
                asked = Enrol(self._identity.device, self._group, self._identity.request())
                bus.publish(self._topic, pack_enrol(asked))
        except StoreError as error:  # a disk that refuses is asked again, like the desk
            log.error("%s", error)
        return False

    def _taken(self, payload: bytes) -> bool:
        try:
            answer = open_enrolled(payload)
            if answer.outcome == "issued":
                self._identity.take(answer.chain, self._ca)
                log.info("device %s has a certificate", self._identity.device)
                return True
        except FrameError as error:
            log.warning("dropped an answer of the enrolment desk: %s", error)
            return False
        log.warning("the enrolment desk says %s: %s", answer.outcome, answer.reason)
        self._said = answer.outcome
        return False


class Claim:
    """The claim in a file: TLS reads authority, certificate and key from it alike."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError where it is none."""
        try:
            self.name = read(path.read_bytes()).name
        except (OSError, FrameError) as error:
            raise SettingsError(
                f"enrol.claim: {path} is no claim ({error}); have one made: fedfleet enrol claim"
            ) from None
        if not CLAIM.fullmatch(self.name):
            raise SettingsError(f"enrol.claim: {path} is the certificate of {self.name[:48]!r}, and no claim")


def identity(settings: AgentSettings) -> Identity:
    """Return the device's identity, where it is enrolled by a claim."""
    return Identity(Path(settings.broker.certificate), settings.device)


def enrolled(settings: AgentSettings, stopped: Callable[[], bool]) -> bool:
    """Have a certificate: ask for it by a claim where there is none, until it is there or `stopped()`.

    Then scrub the claim. Returns whether all is well to connect; it is where no claim is set. Raises SettingsError
    where there is neither a certificate nor a claim.
    """
    if not settings.enrol.claim:
        return True
    found, claim = identity(settings), Path(settings.enrol.claim)
    if not found.path.is_file() and not _asked(settings, found, claim, stopped):
        return False
    _tidy(found, claim)
    return True


def reached_by(broker: Broker, claim: Path) -> Broker:
    """Return how to reach `broker` with a claim, which brings the authority where the owner has named no other."""
    named = broker.ca != broker.certificate and Path(broker.ca).is_file()
    return replace(broker, ca=broker.ca if named else str(claim), certificate=str(claim), key=str(claim))


def _asked(settings: AgentSettings, wanted: Identity, claim: Path, stopped: Callable[[], bool]) -> bool:
    found, topics = Claim(claim), Topics(settings.fleet)
    broker = reached_by(settings.broker, claim)
    log.info("device %s asks for its certificate by %s", settings.device, found.name)
    asking = Asking(wanted, topics, found.name, settings.group, str(claim), time.monotonic)
    bus = MqttBus(broker, found.name, wait=0)
    try:
        bus.subscribe(asking.answers)
        while not stopped():
            arrived = bus.deliveries(POLL)
            if bus.connections and asking.step(bus, [payload for _, payload in arrived]):
                return True
    finally:
        bus.close()
    return False


def _tidy(found: Identity, claim: Path) -> None:
    """Scrub what has served. A claim that cannot be scrubbed, on a disk that is read-only, serves no other key."""
    try:
        found.settle()
        if claim.is_file():
            files.scrub(claim)
            log.info("the claim %s has served, and was scrubbed", claim)
    except StoreError as error:
        log.error("%s; the claim has been used and is of no use to others, but remove it", error)
