"""When a board has better things to do than to train: its owner's limits, watched, with one line why.

A guard that a board has nothing to read for never holds anything up. All waiting is measured by a monotonic clock. Only
`hours` needs the time of day, and a board that has not been told it yet (its year is before FIRST_YEAR) trains at any
hour: else one without a clock or a network time server would sleep for ever. Whether a link is metered is not asked of
NetworkManager, which would cost a process a minute and mostly guesses: the owner names the interfaces that cost money.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedfleet.edge import board
from fedfleet.edge.trainer import Hold
from fedfleet.wire.record import require

PERIOD = 5.0  # seconds between two looks at the board
CALM = 60.0  # seconds without a throttle flag after which it counts as gone: they come and go within seconds
COOLER, EASIER, FULLER = 5.0, 0.9, 1.1  # how far back a measure must be before work goes on
FIRST_YEAR = 2024
HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
ROOT = Path("/")


@dataclass(frozen=True)
class Guards:
    """`[guards]` of `agent.toml`; 0 or empty stands for no limit. Degrees C, MiB, percent, local time.

    `max_load` is that of the whole board over a minute, to which training adds about 1. `min_memory_mib` is what others
    must still have while training runs. `hours = "22:00-06:00"` may pass midnight. `metered` names interfaces, such as
    `wwan*`. `inhibit` is a file that whoever needs the board to himself makes; relative to the state folder.
    """

    max_temperature: float = 0.0
    throttled: bool = True
    max_load: float = 0.0
    min_memory_mib: float = 0.0
    min_disk_mib: float = 0.0
    mains_only: bool = False
    min_battery: float = 0.0
    hours: str = ""
    metered: tuple[str, ...] = ()
    inhibit: str = "inhibit"

    def __post_init__(self) -> None:
        require(0 <= self.max_temperature <= board.HOTTEST, f"max_temperature must be 0 to {board.HOTTEST:g} degrees C")
        require(min(self.max_load, self.min_memory_mib, self.min_disk_mib) >= 0, "a limit must not be negative")
        require(0 <= self.min_battery <= 100, "min_battery must be 0 to 100 percent")
        begin, _, end = self.hours.partition("-")
        require(
            not self.hours or (HOURS.fullmatch(self.hours) is not None and begin != end),
            'hours must be like "22:00-06:00"',
        )


class Level(NamedTuple):
    """A measure with two limits: where work stops, and the one a little further back where it goes on."""

    name: str
    value: float | None
    unit: str
    stop: float
    go: float

    def why(self, held: bool) -> str:
        """Why work must wait, if it must; `held` is whether this measure has held it up already."""
        if self.value is None:
            return ""
        above = self.go < self.stop
        said = f"{self.name} of {self.value:.1f} {self.unit}".rstrip()
        if self.value > self.stop if above else self.value < self.stop:
            return f"{said} is {'over' if above else 'under'} {self.stop:g}"
        if held and (self.value > self.go if above else self.value < self.go):
            return f"{said}: work goes on at {self.go:g}"
        return ""


class Watch:
    """The guards of one board. Calling it says whether training may go on; it looks every 5 s and remembers between."""

    def __init__(
        self,
        guards: Guards,
        folder: Path,
        resident: Callable[[], float] = lambda: 0.0,
        *,
        root: Path = ROOT,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        """Guard the state in `folder`; `resident` says how many MiB training holds right now."""
        self._guards = guards
        self._folder = folder
        self._resident = resident
        self._root = root
        self._clock = clock
        self._wall = wall
        self._looked: float | None = None
        self._hold = Hold()
        self._held: set[str] = set()
        self._need = 0.0
        self._flagged: float | None = None

    def __call__(self) -> Hold:
        """What holds training up, as of at most 5 s ago."""
        now = self._clock()
        if self._looked is None or now - self._looked >= PERIOD:
            self._looked = now
            self._hold = self._look(now)
        return self._hold

    def _look(self, now: float) -> Hold:
        reasons = {level.name: why for level in self._levels() if (why := level.why(level.name in self._held))}
        self._held = set(reasons)
        asleep = self._asleep()
        others = [self._inhibited(), self._flags(now), self._supply(), self._link()]
        paused = next((why for why in (*others, *reasons.values()) if why), "")
        state = "asleep" if asleep else "paused" if paused else ""
        return Hold(state, asleep or paused, "memory" in reasons)

    def _levels(self) -> Iterator[Level]:
        """All measures that have a limit, as they are now."""
        guards, root = self._guards, self._root
        if guards.max_temperature:
            cool = guards.max_temperature - COOLER
            yield Level("temperature", board.temperature(root), "C", guards.max_temperature, cool)
        if guards.max_load:
            yield Level("load", board.load(root), "", guards.max_load, EASIER * guards.max_load)
        if guards.min_memory_mib:
            least = guards.min_memory_mib
            yield Level("memory", self._left(), "MiB", least, FULLER * least)
        if guards.min_disk_mib:
            least = guards.min_disk_mib
            yield Level("free disk", board.disk(self._folder), "MiB", least, FULLER * least)
        if guards.min_battery:
            more = min(guards.min_battery + COOLER, 100.0)
            yield Level("battery", board.battery(root), "%", guards.min_battery, more)

    def _left(self) -> float | None:
        """The memory that others have while training runs, whether it runs now or not.

        Without what training takes, ending it would look like room for it, and it would begin and be ended for ever.
        """
        free, taken = board.memory(self._root), self._resident()
        self._need = max(self._need, taken)
        return None if free is None else free + taken - self._need

    def _asleep(self) -> str:
        match = HOURS.fullmatch(self._guards.hours)
        now = self._wall()
        if match is None or now.tm_year < FIRST_YEAR:
            return ""
        begin, end = (60 * int(match[i]) + int(match[i + 1]) for i in (1, 3))
        minute = 60 * now.tm_hour + now.tm_min
        awake = begin <= minute < end if begin < end else minute >= begin or minute < end
        return "" if awake else f"it is {minute // 60:02d}:{minute % 60:02d}, outside of {self._guards.hours}"

    def _inhibited(self) -> str:
        path = self._folder / self._guards.inhibit
        return f"{path} is there" if self._guards.inhibit and path.exists() else ""

    def _flags(self, now: float) -> str:
        said = board.throttled(self._root) if self._guards.throttled else ""
        if said:
            self._flagged = now
        elif self._flagged is not None and now - self._flagged < CALM:
            return "the board was throttled less than a minute ago"
        return said

    def _supply(self) -> str:
        on_battery = self._guards.mains_only and board.battery(self._root) is not None
        return "the board runs on its battery" if on_battery else ""

    def _link(self) -> str:
        name = board.metered(self._root, self._guards.metered) if self._guards.metered else ""
        return f"the link by {name} is metered" if name else ""
