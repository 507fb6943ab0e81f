"""The trial of a new version: it must reach the broker and finish a round's work, or it says why it could not and ends.

How often it is started is counted by `launch`, which is no part of any version, and goes back to the one before.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import metadata
from types import TracebackType

from fedfleet.edge.ota.slots import Slots
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import VERSION

log = logging.getLogger("fedfleet.agent")
RESTART = 75  # the exit code that asks to be started again: EX_TEMPFAIL of sysexits.h


class Gate:
    """What the running version has to pass if it is on trial; nothing otherwise."""

    def __init__(self, slots: Slots | None, limit: float, clock: Callable[[], float]) -> None:
        """`limit` are the seconds in which the trial must come on while there is something to come on with."""
        self.slots = slots
        self.on = slots is not None and slots.trial is not None
        self.failed = False
        self._limit = limit
        self._clock = clock
        self._since = clock()

    def got(self, how_far: str) -> None:
        """Note how far the trial has come, for whoever goes back to the version before."""
        if self.on and self.slots is not None:
            try:
                self.slots.got(how_far)
            except StoreError as error:
                log.warning("%s", error)

    def look(self, *, waiting: bool) -> None:
        """Fail the trial where nothing comes of it; it stands still while the agent is `waiting` for others."""
        if waiting:
            self._since = self._clock()
        elif self.on and self._clock() - self._since > self._limit:
            self.fail(f"nothing came of it in {self._limit:g} s")

    def fail(self, why: str) -> None:
        """End this start for `why`."""
        if self.on and not self.failed:
            log.error("this version is on trial and has failed: %s", why)
            self.got(why)
            self.failed = True

    def passed(self) -> bool:
        """End the trial: the version is good. Whether that could be noted."""
        if self.on and self.slots is not None and not self.failed:
            try:
                self.slots.keep()
                self.slots.tidy()
            except StoreError as error:
                log.warning("%s", error)
                return False
            self.on = False
            log.info("version %s has passed its trial", self.slots.own)
        return True

    def stopped(self) -> None:
        """Take this start back: the board's owner has ended it."""
        if self.on and self.slots is not None and not self.failed:
            try:
                self.slots.uncount()
            except StoreError as error:
                log.warning("%s", error)

    def confess(self) -> None:
        """Have noted whatever ends this process unforeseen, while the trial is on."""
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self.got(f"it ended with {kind.__name__}: {error}")
            before(kind, error, trace)

        sys.excepthook = hook


def version(slots: Slots | None) -> str:
    """Return the version that is running: that of its slot, or as it was installed by pip."""
    if slots is not None:
        return slots.own
    for name in ("fedfleet-agent", "fedfleet"):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return found if VERSION.fullmatch(found) else ""
    return ""
