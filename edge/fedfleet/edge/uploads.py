"""An update on its way to the cloud: offered until it is asked for, then sent part by part as it is asked for.

A PUBACK proves nothing, so the update stays in the spool until a receipt says that it was counted or refused. Nobody
sends a byte of it unasked: however large the cohort, the broker holds no more than the cloud has asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fedfleet.edge.spool import Spool
from fedfleet.wire.bus import Bus
from fedfleet.wire.chunks import Offer, pack_offer, pack_part
from fedfleet.wire.messages import Receipt, Task, draw
from fedfleet.wire.topics import Topics

RESEND = (15.0, 240.0)  # seconds without an answer after which an update is offered again: at first, at most
SOON = 1.0


class Uploader:
    """Says what is spooled, and sends what is asked for."""

    def __init__(self, device: str, topics: Topics, bus: Bus, spool: Spool, clock: Callable[[], float]) -> None:
        self._device = device
        self._topics = topics
        self._bus = bus
        self._spool = spool
        self._clock = clock
        self._offered: Offer | None = None
        self._due = 0.0
        self._tries = 0
        self._link = bus.connections

    def step(self, round_: int) -> None:
        """Offer the update of `round_` if it is time. Raises Rotten."""
        if self._bus.connections != self._link:  # what was on its way may be lost
            self.again()
        if self._clock() < self._due:
            return
        offered = self._spool.offer(round_)
        if offered is None:
            self._offered, self._due = None, math.inf
            return
        self._offer(offered)

    def due(self) -> float:
        """When `step` has something to do though nothing arrives, by the clock."""
        return self._due if self._bus.connections == self._link else 0.0

    def fresh(self, offered: Offer) -> None:
        """There is a new update: offer it at once, without a look at what has just been written."""
        self._link, self._tries = self._bus.connections, 0
        self._offer(offered)

    def anew(self) -> None:
        """What was said of the update counts no more: offer it at the next step."""
        self._tries, self._due = 0, 0.0

    def again(self) -> None:
        """Whoever was offered the update may have forgotten it: offer it again, not all devices in one instant."""
        self._link = self._bus.connections
        self._tries = 0
        self._due = min(self._due, self._clock() + SOON * draw("again", self._link, self._device))

    def asked(self, receipt: Receipt) -> None:
        """Send the parts that `receipt` asks for. Raises FrameError for one that there is not, StoreError."""
        offered = self._offered
        if offered is None or offered.round != receipt.round:
            return
        for index in receipt.missing:
            body = self._spool.part(offered, index)
            self._bus.publish(self._topics.update(self._device), pack_part(offered, index, body))
        self._tries = 0
        self._wait()

    def done(self) -> None:
        """The update has been counted, or refused: drop it. Raises StoreError."""
        self._offered, self._due = None, math.inf
        self._spool.clear()

    def _offer(self, offered: Offer) -> None:
        self._offered = offered
        self._bus.publish(self._topics.update(self._device), pack_offer(offered))
        self._wait()

    def _wait(self) -> None:
        pause = min(RESEND[0] * 2**self._tries, RESEND[1])
        self._tries = min(self._tries + 1, 8)
        self._due = self._clock() + pause * (0.75 + 0.5 * draw("resend", self._tries, self._device))


def counts(task: Task, newest: Task | None) -> bool:
    """Whether an update for `task` may count now that `newest` is there; of equal tasks only the one that was taken."""
    if newest is None or newest is task:
        return newest is not None
    return newest.train and newest.program == task.program and 0 < newest.round - task.round <= newest.staleness
