"""How long to wait before the next try to connect: full jitter, so that a fleet does not come back all at once.

The pause after failure n is uniform in [0, min(longest, SHORTEST * 2^n)] seconds (M. Brooker, "Exponential Backoff and
Jitter", AWS Architecture Blog, 2015). There is no clock in here, so that a test needs no waiting.
"""

from __future__ import annotations

from collections.abc import Callable

SHORTEST = 4.0  # seconds; a broker that restarts at once meets a quarter of its clients in each of them
LONGEST = 60.0  # seconds, where nobody answers or the link was lost
LONGEST_REFUSED = 600.0  # seconds, after a no: who has the wrong password has it in a minute too
# Seconds that a link must hold to be called good. As long as LONGEST, so that one that is made and lost at once backs
# off too: a message that the broker hangs up on, or two clients with one name that throw each other out.
HELD = LONGEST


class Backoff:
    """Counts the failures of one client."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` draws uniformly from [0, 1)."""
        self._random = random
        self._failures = 0

    def pause(self, held: float, *, refused: bool) -> float:
        """Return the seconds to wait now that a link has ended which held for `held` seconds, 0 if none was made."""
        if held >= HELD:
            self._failures = 0
        longest = min(LONGEST_REFUSED if refused else LONGEST, SHORTEST * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return longest * self._random()
