"""The desk: devices ask it for certificates by way of the broker, and `decide` says who gets one.

One thread, driven by `step`, like the aggregator. A certificate is in the ledger before it is sent, so whoever is
killed, and wherever, the device gets the same one when it asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from fedfleet.cloud.identity import authority, signing
from fedfleet.cloud.identity.authority import Authority
from fedfleet.cloud.identity.decide import Asked, Decision, decide
from fedfleet.cloud.identity.ledger import Certificate, Ledger
from fedfleet.wire.bus import Bus
from fedfleet.wire.enrolment import Enrol, Enrolled, open_enrol, pack_enrolled
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import seen
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.desk")
LOOK = 1.0  # seconds between looks for what an operator has accepted


class Desk:
    """Answers the requests of one fleet. Build it, then call `step` for ever."""

    def __init__(
        self,
        fleet: str,
        signer: Authority,
        ledger: Ledger,
        bus: Bus,
        clock: Callable[[], float],
        life: timedelta = authority.DEVICE,
        returned: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock` returns seconds since 1970; certificates hold for `life`.

        `returned` is called when a device was let in that had been shut out; and at first, lest that was missed.
        """
        self._topics = Topics(fleet)
        self._signer = signer
        self._ledger = ledger
        self._bus = bus
        self._clock = clock
        self._life = life
        self._returned = returned
        self._looked = 0.0
        returned()
        bus.subscribe(self._topics.request())

    def step(self, timeout: float) -> None:
        """Answer what arrives within `timeout` seconds, and those that an operator has accepted meanwhile."""
        for topic, payload in self._bus.deliveries(timeout):
            try:
                self._serve(self._topics.asking(topic), open_enrol(payload))
            except FrameError as error:
                log.warning("dropped a message on %s: %s", topic[:120], error)
        if not 0 <= self._clock() - self._looked < LOOK:
            self._looked = self._clock()
            for claim in self._ledger.accepted():
                answer = self._serve(claim.id, Enrol(claim.wants, "", claim.csr.encode()))
                if answer.outcome == "refused":  # its time, or its name, has gone meanwhile
                    self._ledger.settle(claim.id, "refused", answer.reason)

    def _serve(self, by: str, asked: Enrol) -> Enrolled:
        try:
            answer = self._answer(by, asked)
        except FrameError as error:
            answer = Enrolled("refused", seen(str(error)))
        say = log.warning if answer.outcome == "refused" else log.info
        say("%s asks for a certificate of %s: %s %s", by, asked.device, answer.outcome, answer.reason)
        self._bus.publish(self._topics.answer(by), pack_enrolled(answer))
        return answer

    def _answer(self, by: str, asked: Enrol) -> Enrolled:
        """Decide, sign and note it as one; raises FrameError for a request that is none."""
        request, now = signing.opened(asked.csr), self._clock()
        with self._ledger.transaction():
            out = self._ledger.denied()
            claim = self._ledger.claim(by)
            who = Asked(self._topics.fleet, by, asked.device, asked.group, request.cn, request.key)
            found = decide(who, claim, self._ledger, now)
            if found.outcome != "refused" and found.again is None and claim is not None:
                self._ledger.ask(by, asked.device, request.key, request.pem, now)
            certificate = found.again
            if found.outcome == "issued" and certificate is None:
                certificate = self._issue(who, request, found, now)
        if asked.device in out and found.outcome == "issued":
            self._returned()
        if certificate is None:
            return Enrolled(found.outcome, seen(found.reason))
        return Enrolled("issued", "", certificate.pem.encode() + self._signer.pem)

    def _issue(self, asked: Asked, request: signing.Request, found: Decision, now: float) -> Certificate:
        names = {"o": asked.fleet, "ou": found.group}
        serial, pem, ends = self._signer.client(asked.device, request.public, now, self._life, **names)
        claim = "" if asked.by == asked.device else asked.by
        made = Certificate(serial, asked.device, found.group, claim, request.key, pem.decode(), now, ends)
        self._ledger.certify(made)
        self._ledger.settle(asked.by, "issued")
        return made
