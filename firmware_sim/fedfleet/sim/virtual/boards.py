"""One virtual device: the real agent on its folder, stepped only when there is something to do, and what befalls it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedfleet.edge.agent import Agent, birth, death
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Stop, Trainer
from fedfleet.sim.virtual.air import Air, AirBus
from fedfleet.sim.virtual.clock import Alarm
from fedfleet.sim.virtual.faults import luck
from fedfleet.wire.bus import Will
from fedfleet.wire.codecs import PLAIN, grow, shrink
from fedfleet.wire.messages import Task, Update
from fedfleet.wire.topics import Topics

TURN = 1.0  # seconds between two steps of an agent to which nothing comes; its own loop takes as many
GONE = 600.0  # seconds that a dropout is gone, at most
DARK = 30.0  # seconds that a reboot takes, at most
PERIOD = 1800.0  # seconds from one absence of a device to its next
SCALE = 10.0


class Paced:
    """A trainer that takes virtual time: it says that it was stopped until its time is over, and only then trains.

    So nothing is learned that a newer task or a power cut would have ended, and the agent needs no second way to wait.
    """

    def __init__(self, inner: Trainer, clock: Callable[[], float], begun: Callable[[int], float]) -> None:
        """`begun` is told of the round that begins and returns the seconds that it takes."""
        self.until = 0.0
        self._inner = inner
        self._clock = clock
        self._begun = begun
        self._round = 0
        self._seconds = 0.0

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Return None before the time is over, then what the trainer within returns, with virtual `seconds`."""
        if task.round != self._round:
            self._round = task.round
            self._seconds = self._begun(task.round)
            self.until = self._clock() + self._seconds
        if self._clock() < self.until:
            return None
        update = self._inner.train(task, program, weights, stop)
        if update is None:
            return None
        # what this machine took for it would be another number in each run
        metrics = {name: value for name, value in update.metrics.items() if name != "rss_mib"}
        return replace(update, metrics={**metrics, "seconds": self._seconds})

    def close(self) -> None:
        """Close the trainer within."""
        self._inner.close()


class Attacker:
    """A trainer that sends something else than it learned."""

    def __init__(self, inner: Trainer, kind: str) -> None:
        """`kind` is one of `faults.ATTACKS` but for labels, which are the data's."""
        self._inner = inner
        self._kind = kind

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Return what the trainer within learned, forged."""
        update = self._inner.train(task, program, weights, stop)
        if update is None:
            return None
        vectors = 2 if task.control else 1
        delta = grow(update.codec, update.delta, vectors * task.weights.size // 4)
        factor = {"sign": -1.0, "scale": SCALE, "reverse": -SCALE, "free": 0.0}.get(self._kind, np.nan)
        change = delta * np.float32(factor)
        data = shrink(PLAIN, change, 0)
        return replace(update, codec=PLAIN, delta=data)

    def close(self) -> None:
        """Close the trainer within."""
        self._inner.close()


class Life(NamedTuple):
    """What a device is between two losses of power."""

    agent: Agent
    bus: AirBus
    paced: Paced
    state: State


class Board:
    """A device with its folder; it lives, is cut off and comes back as its luck says."""

    def __init__(
        self,
        device: str,
        topics: Topics,
        air: Air,
        folder: Path,
        trainer: Trainer,
        done: Callable[[State], None] | None = None,
    ) -> None:
        """`done` is told when nothing is left to be done, nor on its way; the board is over then."""
        self.device = device
        self._topics = topics
        self._air = air
        self._clock = air.clock
        self._folder = folder
        self._trainer = trainer
        self._done = done
        self._wanted = 0
        self._life: Life | None = None
        self._alarm = Alarm(self._clock, self._turn)
        self.starts = 0

    def start(self, since: int = 0) -> None:
        """Come to life on whatever the folder holds; with `since`, the round that calls, it was there all along."""
        state = State(self._folder)
        self._wanted = max(self._wanted, since)
        if not since:
            state.begin()
            self.starts += 1
        will = Will(self._topics.status(self.device), birth(state), death(state))
        bus = self._air.connect(self.device, will, self.wake, since)
        kind = self._air.faults.attack(self._air.seed, self.device)
        trainer = Attacker(self._trainer, kind) if kind not in ("", "labels") else self._trainer
        paced = Paced(trainer, self._clock, partial(self._begun, state.boot))
        self._life = Life(Agent(self.device, self._topics, bus, state, paced, self._clock), bus, paced, state)
        self.wake()
        if away := PERIOD * self._air.faults.away:
            ago = (self._clock.now - PERIOD * luck(self._air.seed, "away", 0, self.device)[0]) % PERIOD
            self._clock.at(self._clock.now + (0.0 if ago < away else PERIOD - ago), partial(self._leave, bus, ago))

    def die(self, dark: float) -> None:
        """Lose power, and start again after `dark` seconds."""
        if self._life:
            self._life.bus.die()
            self._life = None
            self._alarm.off()
            self._clock.at(self._clock.now + dark, self.start)

    def wake(self) -> None:
        """Step the agent now: something has arrived."""
        self._alarm.at(self._clock.now)

    def close(self) -> None:
        """Say goodbye."""
        if self._life:
            self._life.agent.close()
            self._life = None
            self._alarm.off()

    def _turn(self) -> None:
        if self._life is None:
            return
        agent, bus, paced, state = self._life
        agent.step(0)
        due = max(agent.due(), paced.until if agent.due() <= self._clock.now else 0.0)
        if due < math.inf:
            self._alarm.at(max(due, self._clock.now + TURN))
        elif self._done and state.round >= self._wanted:
            if bus.quiet:
                self._life = None
                self._done(state)
            else:
                self._alarm.at(self._clock.now + TURN)

    def _begun(self, boot: int, round_: int) -> float:
        """Draw what befalls the device in this round; returns the seconds that it trains."""
        faults, seed, now = self._air.faults, self._air.seed, self._clock.now
        seconds = faults.seconds(seed, self.device, round_)
        chance = luck(seed, f"round:{boot}", round_, self.device)
        if self._life is None:
            return seconds
        if chance[0] < faults.dropout:
            self._clock.at(now, partial(self._life.bus.cut, GONE * chance[1]))
        if chance[2] < faults.reboot:
            when = now + 1.5 * seconds * chance[3]
            self._clock.at(when, partial(self._reboot, self._life.bus, DARK * chance[4]))
        return seconds

    def _reboot(self, bus: AirBus, dark: float) -> None:
        if self._life and self._life.bus is bus:
            self.die(dark)

    def _leave(self, bus: AirBus, ago: float) -> None:
        """Be out of reach for a while, as in every period; `ago` seconds of this absence are over."""
        if self._life and self._life.bus is bus:
            away = PERIOD * self._air.faults.away
            ago = ago if ago < away else 0.0
            bus.cut(away - ago)
            self._clock.at(self._clock.now + PERIOD - ago, partial(self._leave, bus, 0.0))
