"""The aggregator in virtual time, and its lives: killed, it starts anew from its journal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.journal import Journal
from fedfleet.sim.virtual.air import Air, AirBus
from fedfleet.sim.virtual.clock import Alarm
from fedfleet.sim.virtual.faults import luck
from fedfleet.wire.bus import Bus

NAME = "cloud"
TICK = 0.05  # seconds in which what arrives is handled together
TURN = 1.0  # seconds between two looks at the deadline
DARK = 30.0  # seconds that a new start takes, at most
Build = Callable[[Bus, Journal, Callable[[], float]], Aggregator]
Look = Callable[[Aggregator, Journal], None]


class Cloud:
    """An aggregator on the journal in `folder`."""

    def __init__(self, air: Air, folder: Path, build: Build, killed: Look = lambda _, __: None) -> None:
        """`build` makes an aggregator; `killed` is shown one, and its journal, right before it is killed."""
        self._air = air
        self._clock = air.clock
        self._folder = folder
        self._build = build
        self._killed = killed
        self._alarm = Alarm(self._clock, self._turn)
        self._life: tuple[Aggregator, Journal, AirBus] | None = None
        self._round = 0
        self.kills = 0
        self.began = 0.0  # when the round that is newest began

    @property
    def aggregator(self) -> Aggregator | None:
        """The aggregator that lives now."""
        return self._life[0] if self._life else None

    def start(self) -> None:
        """Come to life on whatever the journal holds."""
        journal = Journal(self._folder)
        bus = self._air.connect(NAME, None, self.wake)
        self._life = self._build(bus, journal, self._clock), journal, bus
        self.wake()

    def wake(self) -> None:
        """Step soon: something has arrived."""
        self._alarm.at(self._clock.now + TICK)

    def kill(self, dark: float) -> None:
        """End without a word, and start again after `dark` seconds."""
        if self._life is None or self._life[0].done:
            return
        aggregator, journal, bus = self._life
        self._killed(aggregator, journal)
        self.kills += 1
        bus.die()
        journal.close()
        self._life = None
        self._alarm.off()
        self._clock.at(self._clock.now + dark, self.start)

    def close(self) -> None:
        """Let go of the journal."""
        if self._life:
            self._life[1].close()
            self._life = None

    def _turn(self) -> None:
        if self._life is None:
            return
        aggregator = self._life[0]
        aggregator.step(0)
        if aggregator.progress()[0] > self._round:
            self._round, self.began = aggregator.progress()[0], self._clock.now
            self._begun(self._life[2])
        if not aggregator.done:
            self._alarm.at(self._clock.now + TURN)

    def _begun(self, bus: AirBus) -> None:
        """Draw what befalls the aggregator in this round."""
        faults, now = self._air.faults, self._clock.now
        chance = luck(self._air.seed, "round", self._round, NAME)
        if chance[0] < faults.kill:
            self._clock.at(now + 4 * faults.training * chance[1], partial(self.kill, DARK * chance[2]))
        if chance[3] < faults.outage:
            self._clock.at(now + 4 * faults.training * chance[4], partial(bus.cut, DARK * chance[5]))
