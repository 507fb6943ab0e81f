"""Virtual time: a heap of what is to happen; nothing in here waits."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from functools import partial
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


class Alarm:
    """Has `act` called at the earliest of the times that are asked for; the others are forgotten then."""

    def __init__(self, clock: Clock, act: Callable[[], None]) -> None:
        self._clock = clock
        self._act = act
        self._next = math.inf

    def at(self, when: float) -> None:
        """Ask for `when`, unless something earlier has been asked for."""
        if when < self._next:
            self._next = when
            self._clock.at(when, partial(self._ring, when))

    def off(self) -> None:
        """Forget what has been asked for."""
        self._next = math.inf

    def _ring(self, when: float) -> None:
        if when == self._next:
            self._next = math.inf
            self._act()
