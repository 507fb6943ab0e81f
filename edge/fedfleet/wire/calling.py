"""Whom a task calls: those whose turn it is, and who have what it needs. Each device decides for itself.

Turns go by laps. In every lap each device has one place; a task has a window on the line of laps, the next task the
window behind it. So in a lap each device is called once, whatever the windows' sizes. Its quarter of the lap is a
device's own, where in the quarter is anew each lap: cohorts mix, from call to call there are 3/4 to 5/4 laps, and no
window of 3/4 lap or less has a device twice.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from fedfleet.wire.record import require
from fedfleet.wire.topics import NAME

LAP = 2**32
LAPS = 2**21  # then the line begins anew: positions are whole numbers that JSON readers of all languages keep
MAX_TAGS = 16
MAX_MIB = 2**43
WORD = re.compile(r"[A-Za-z0-9_.-]{0,36}")


@dataclass(frozen=True)
class Ability:
    """What a device says of itself: its owner's `tags`, memory in MiB, processor, and what runs its programs.

    0 or empty where it does not know.
    """

    tags: tuple[str, ...] = ()
    memory_mib: int = 0
    arch: str = ""
    runtime: str = ""

    def __post_init__(self) -> None:
        require_tags(self.tags)
        require(0 <= self.memory_mib <= MAX_MIB, "memory_mib must not be negative")
        for what, word in (("arch", self.arch), ("runtime", self.runtime)):
            require(WORD.fullmatch(word) is not None, f"{what} must be at most 36 of letters, digits, dot, _ and -")


@dataclass(frozen=True)
class Needs:
    """What a device must have to be called: all of `tags`, and so much memory."""

    tags: tuple[str, ...] = ()
    memory_mib: int = 0

    def __post_init__(self) -> None:
        require_tags(self.tags)
        require(0 <= self.memory_mib <= MAX_MIB, "memory_mib must not be negative")

    def met(self, ability: Ability) -> bool:
        """Whether a device of that `ability` has it all."""
        return self.memory_mib <= ability.memory_mib and set(self.tags) <= set(ability.tags)

    def __str__(self) -> str:
        tags = [f"the tag {tag}" for tag in self.tags]
        return " and ".join([*tags, *([f"{self.memory_mib} MiB of memory"] if self.memory_mib else [])])


def require_tags(tags: tuple[str, ...]) -> None:
    """Raise Mismatch unless these may be a device's tags."""
    require(len(tags) <= MAX_TAGS, f"there may be at most {MAX_TAGS} tags")
    require(all(NAME.fullmatch(tag) for tag in tags), "each of tags must be 1 to 36 characters of a-z, 0-9 and -")


def place(lap: int, device: str) -> int:
    """Return where in `lap` the turn of `device` is, from 0 to LAP - 1."""
    return _place(lap, hashlib.sha256(f"call:{device}".encode()).digest())


def ahead(start: int, device: str) -> int:
    """Return how far the next turn of `device` is from the position `start` on: 0 where it stands there."""
    digest = hashlib.sha256(f"call:{device}".encode()).digest()
    lap, at = divmod(start, LAP)
    here = _place(lap, digest)
    return here - at if here >= at else LAP - at + _place((lap + 1) % LAPS, digest)


def _place(lap: int, digest: bytes) -> int:
    """A quarter for ever; in it a place that moves on by the same step of its own, modulo the quarter, in each lap."""
    step, first = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    return (digest[16] >> 6) << 30 | (first + step * lap) % 2**64 >> 34
