"""What systemd is told of the agent, and its watchdog: fed by work that goes on, never by a timer.

A thread of its own would go on feeding while all else hangs. So the loop feeds, each time it comes round, and while it
waits for a training process it feeds only where that has computed since it last did. A process that computes for ever
gets past that, and is ended by its own limit (edge/limits.py). Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from fedfleet.edge.board import computed
from fedfleet.edge.guards import ROOT

OFTEN = 4  # times that the watchdog is fed within the time that it waits
PATIENCE = 60.0  # seconds for the broker, after which the board's start waits no longer


def tell(*said: str) -> None:
    """Send such as `READY=1` to who has started us, if he listens; nothing where he does not."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker, suppress(OSError):
        speaker.setblocking(False)  # also called from a handler of signals
        speaker.connect("\0" + address[1:] if address.startswith("@") else address)
        speaker.send("\n".join(said).encode())


def period() -> float:
    """Seconds between two feedings of the watchdog; infinity where there is none."""
    wait, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wait.isdecimal() or process not in ("", str(os.getpid())):
        return math.inf
    return int(wait) / 1e6 / OFTEN


class Pulse:
    """The agent's sign of life."""

    def __init__(self, stopping: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """`stopping` says whether the agent is to end; `clock` returns monotonic seconds."""
        self._stopping = stopping
        self._clock = clock
        self._began = clock()
        self._ready = False
        self._period = period()
        self._due = -math.inf
        self._seen = (0, 0)  # the training process, and what it had computed when the watchdog was last fed

    def ready(self, status: str) -> None:
        """Say once that the start is over."""
        if not self._ready:
            tell("READY=1", f"STATUS={status}")
        self._ready = True

    def ends(self, process: int = 0) -> bool:
        """The loop has come round; `process` is the one that trains for it, if any. Return whether it is to end."""
        now = self._clock()
        if now - self._began >= PATIENCE:
            self.ready("no broker yet; trying on")
        if now >= self._due:
            self._feed(now, process)
        return self._stopping()

    def _feed(self, now: float, process: int) -> None:
        seen = (process, computed(ROOT, process) if process else 0)
        if process and seen == self._seen:
            return
        self._seen, self._due = seen, now + self._period
        tell("WATCHDOG=1", f"STATUS={'training' if process else 'waiting'}")
