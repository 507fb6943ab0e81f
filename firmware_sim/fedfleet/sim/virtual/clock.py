"""Virtual time: a heap of what is to happen; nothing in here waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    """Seconds since the start. It advances to the next event only when that is asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()  # of two events at one time, the one that was planned first comes first

    def __call__(self) -> float:
        """Return the time, as `time.monotonic` would."""
        return self.now

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Have `act` called at `when`, now if that is over."""
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), act))

    def step(self) -> bool:
        """Advance to the next event and let it happen; False where nothing is planned any more."""
        if not self._events:
            return False
        self.now, _, act = heapq.heappop(self._events)
        act()
        return True
