"""The way of updates into a round: offered, asked for, put together, folded in, noted in the journal, receipted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fedfleet.cloud.inbox import Inbox
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.rounds import Round
from fedfleet.wire.bus import Bus, Delivery
from fedfleet.wire.chunks import Offer, open_either
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Receipt, Update, encode
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.aggregator")


class Intake:
    """One round's: frames of devices in, receipts out. `bytes` counts what has come, `refused` the updates refused."""

    def __init__(
        self,
        round_: Round,
        bus: Bus,
        topics: Topics,
        journal: Journal,
        clock: Callable[[], float],
        before: Intake | None = None,
    ) -> None:
        """Go on where the round `before` ended, if this one still takes its updates."""
        self.bytes = 0
        self.refused = 0
        self._round = round_
        self._bus = bus
        self._topics = topics
        self._journal = journal
        goes_on = before and round_.task.staleness and before._round.task.plan == round_.task.plan
        fresh = Inbox(round_.task.plan.codec, round_.parameters, clock)
        self._inbox: Inbox = before._inbox if before and goes_on else fresh
        self._whole: list[Update] = []

    def take(self, device: str, delivery: Delivery) -> None:
        """Take one frame: an offer, or a part of what was offered."""
        self.bytes += len(delivery.topic) + len(delivery.payload)
        try:
            answer = self._answer(device, delivery.payload)
        except FrameError as error:
            known = {"device": device, "round": self._round.task.round}
            log.warning("refused an update of %s: %s", device, error, extra=known)
            answer = self._inbox.refusal(device, delivery.payload, str(error))
            if answer is not None and answer.round == self._round.task.round:
                self._round.decline(device, str(error))  # the receipt has it drop the update
        if answer is not None:
            self._say(device, answer)

    def forget(self, device: str) -> None:
        """Wait no longer for a device, and take nothing more of what it has offered."""
        self._round.lose(device)
        self._inbox.drop(device)

    def step(self) -> None:
        """Fold in what has come whole, and note it in the journal, all at once; only then send the receipts.

        Then ask for what is missing. Raises StoreError.
        """
        whole, self._whole = self._whole, []
        receipts, fresh = [], []
        for update in whole:
            before = self._round.reported
            receipts.append((update.device, self._round.take(update)))
            fresh += [update] * (self._round.reported - before)
        self._journal.count(*fresh, into=self._round.task.round)
        for device, receipt in [*receipts, *self._inbox.requests()]:
            self._say(device, receipt)

    def _answer(self, device: str, payload: bytes) -> Receipt | None:
        """Return what is to be said at once to an offer or a part; raises FrameError."""
        opened = open_either(payload)
        if isinstance(opened, Offer):
            receipt = self._round.foresee(device, opened.round)
            if receipt is None:
                self._inbox.offer(device, opened)
            return receipt
        update = self._inbox.part(device, *opened)
        if update is not None:
            self._whole.append(update)
        return None

    def _say(self, device: str, receipt: Receipt) -> None:
        self.refused += receipt.outcome == "refused"
        self._bus.publish(self._topics.receipt(device), encode(receipt))
