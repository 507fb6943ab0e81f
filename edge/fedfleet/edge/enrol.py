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
PATIENCE = 120.0  # seconds to reach the broker by a new claim, for a device that has a certificate
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
        self.said = ""  # the last outcome that was no certificate
        self._by = by
        self._identity = identity
        self._topic = topics.request(by)
        self._group = group
        self._ca = ca
        self._clock = clock
        self._backoff = Backoff(jitter)
        self._next = 0.0

    def step(self, bus: Bus, answers: list[bytes]) -> bool:
        """Take `answers`, and ask when it is time; returns whether the certificate is there."""
        try:
            if any(map(self._taken, answers)):
                return True
            if self._clock() >= self._next:
                self._next = self._clock() + SHORTEST + self._backoff.pause(0, refused=self.said == "refused")
                asked = Enrol(self._identity.device, self._group, self._identity.request(self._by))
                bus.publish(self._topic, pack_enrol(asked))
                key = self._identity.fingerprint(self._by)
                log.info("device %s asks for a certificate by %s, with key %s", asked.device, self._by, key[:16])
        except StoreError as error:  # a disk that refuses is asked again, like the desk
            log.error("%s", error)
        return False

    def _taken(self, payload: bytes) -> bool:
        try:
            answer = open_enrolled(payload)
            if answer.outcome == "issued":
                self._identity.take(answer.chain, self._ca, self._by)
                log.info("device %s has a certificate", self._identity.device)
                return True
        except FrameError as error:
            log.warning("dropped an answer of the enrolment desk: %s", error)
            return False
        log.warning("the enrolment desk says %s: %s", answer.outcome, answer.reason)
        self.said = answer.outcome
        return False


class Claim:
    """The claim in a file: TLS reads authority, certificate and key from it alike."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError where it is none."""
        try:
            found = read(path.read_bytes())
        except (OSError, FrameError) as error:
            raise SettingsError(
                f"enrol.claim: {path} is no claim ({error}); have one made: fedfleet enrol claim"
            ) from None
        self.name, self.ends = found.name, found.ends
        if not CLAIM.fullmatch(self.name):
            raise SettingsError(f"enrol.claim: {path} is the certificate of {self.name[:48]!r}, and no claim")


def identity(settings: AgentSettings) -> Identity:
    """Return the device's identity, where it is enrolled by a claim."""
    return Identity(Path(settings.broker.certificate), settings.device)


def enrolled(settings: AgentSettings, stopped: Callable[[], bool]) -> bool:
    """Have a certificate: ask for it by a claim where there is none, or the claim is a new one; then scrub the claim.

    A device that has a certificate keeps it where a new claim is refused, or leads to no broker. Returns whether to
    connect: not when it was `stopped()`. Raises SettingsError where there is neither a certificate nor a claim.
    """
    if not settings.enrol.claim:
        return True
    found, claim = identity(settings), Path(settings.enrol.claim)
    if (not found.path.is_file() or _new(found, claim)) and not _asked(settings, found, claim, stopped):
        return False
    _tidy(found, claim)
    return True


def reached_by(broker: Broker, claim: Path) -> Broker:
    """Return how to reach `broker` with a claim, which brings the authority where the owner has named no other."""
    named = broker.ca != broker.certificate and Path(broker.ca).is_file()
    return replace(broker, ca=broker.ca if named else str(claim), certificate=str(claim), key=str(claim))


def _new(found: Identity, claim: Path) -> bool:
    """Whether there is a claim other than the one by which the device was enrolled."""
    try:
        return claim.is_file() and Claim(claim).name != found.claim()
    except SettingsError:
        return False  # half scrubbed


def _asked(settings: AgentSettings, wanted: Identity, claim: Path, stopped: Callable[[], bool]) -> bool:
    found, topics = Claim(claim), Topics(settings.fleet)
    broker = reached_by(settings.broker, claim)
    if found.ends < time.time():
        log.error("the claim %s has expired, by this clock; have a new one made: fedfleet enrol claim", claim)
    asking = Asking(wanted, topics, found.name, settings.group, str(claim), time.monotonic)
    bus = MqttBus(broker, found.name, wait=0)
    patience = time.monotonic() + PATIENCE
    try:
        bus.subscribe(asking.answers)
        while not stopped():
            arrived = bus.deliveries(POLL)
            if bus.connections and asking.step(bus, [payload for _, payload in arrived]):
                return True
            lost = not bus.connections and time.monotonic() > patience
            if wanted.path.is_file() and (lost or asking.said == "refused"):
                log.warning("device %s goes on with the certificate that it has", settings.device)
                return True
    finally:
        bus.close()
    return False


def _tidy(found: Identity, claim: Path) -> None:
    """Scrub what has served. A claim that cannot be scrubbed, on a disk that is read-only, serves no other key."""
    try:
        found.settle()
        if claim.is_file() and not _new(found, claim):
            files.scrub(claim)
            log.info("the claim %s has served, and was scrubbed", claim)
    except StoreError as error:
        log.error("%s; the claim has been used and is of no use to others, but remove it", error)
