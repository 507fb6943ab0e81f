"""When a simulated run that gets nowhere is ended: its fleet is our own, so nobody is coming to mend it."""

from __future__ import annotations

import re

from fedfleet.cloud.federation import RoundRecord
from fedfleet.wire.errors import SettingsError

FRUITLESS = 5  # rounds without a model, one after the other, for whatever reason
NUMBERS = re.compile(r"\d+")


class Patience:
    """Looks on, and raises SettingsError with the reason when there is no hope left."""

    def __init__(self) -> None:
        self._fruitless = 0
        self._refused = ""

    def ended(self, record: RoundRecord) -> None:
        """A round is over."""
        if record.state == "closed":
            self._fruitless, self._refused = 0, ""
            return
        self._fruitless += 1
        if self._fruitless == FRUITLESS:
            raise SettingsError(f"{FRUITLESS} rounds in a row came to nothing, the last one: {record.reason}")

    def refused(self, reason: str) -> None:
        """All that were called have declined; the second time for the same reason, numbers aside, is the last."""
        same = NUMBERS.sub("", reason)
        if same == self._refused:
            raise SettingsError(f"no round can succeed: {reason}")
        self._refused = same
