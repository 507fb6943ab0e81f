"""Told by a signal to stop.

A handler of signals runs in between any two steps of the main thread, another handler's too. So it must take no lock:
`threading.Event.set` does, and two signals close together, or one while the main thread waits, hang a process for ever.
"""

from __future__ import annotations

import os
import select


class Stopping:
    """What `threading.Event` is to threads, for handlers of signals; threads may wait as well."""

    def __init__(self) -> None:
        self._asked = False
        self._reader, self._writer = os.pipe()  # a byte nobody reads wakes all who wait

    def set(self) -> None:
        """Ask to stop."""
        if not self._asked:
            self._asked = True
            os.write(self._writer, b"\0")

    def is_set(self) -> bool:
        """Whether someone has."""
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Wait until someone does, `seconds` at most; returns whether someone has."""
        if not self._asked:
            select.select([self._reader], [], [], seconds)
        return self._asked
