"""The agent: follow the newest task, fetch what it names, train, and keep the update until its receipt.

One thread, no clock of its own, nothing heavier than the standard library: `step` handles what has arrived and does
the next piece of work, so that a simulation can drive a thousand of them. A newer task supersedes whatever is going
on, unless that still counts by the newer one's `staleness`. Crash-only: what must survive is in `State` before
anything is sent, and a disk that refuses is waited out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from fedfleet.edge.downloads import Fetcher
from fedfleet.edge.spool import Rotten
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Hold, Trainer
from fedfleet.edge.updates import NoUpdates, Updates
from fedfleet.edge.uploads import Uploader, counts
from fedfleet.wire.bus import Bus, Delivery
from fedfleet.wire.calling import Ability
from fedfleet.wire.errors import FedfleetError, FrameError, ProgramError, StoreError, TooLarge
from fedfleet.wire.messages import Blob, Receipt, Status, Task, decode, encode, seen
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.agent")
UNKNOWN = Ability()
REST = (15.0, 600.0)  # seconds that a disk which refuses is left alone: at first, at most


class Agent:
    """One device of a fleet. Build it, then call `step` for ever, or `run`."""

    def __init__(
        self,
        device: str,
        topics: Topics,
        bus: Bus,
        state: State,
        trainer: Trainer,
        clock: Callable[[], float],
        hold: Callable[[], Hold] = Hold,
        ability: Ability = UNKNOWN,
        updates: Updates | None = None,
    ) -> None:
        """`clock` returns monotonic seconds; `bus` has been given `birth` and `death` as its will.

        While `hold` gives a reason, nothing is fetched and no training begins; `trainer` itself pauses what runs.
        `ability` is what every status says that the device has; `updates` are those of the agent itself, if any.
        """
        self.device = device
        self._topics = topics
        self._bus = bus
        self._state = state
        self._trainer = trainer
        self._clock = clock
        self._hold = hold
        self._ability = ability
        self._updates = updates or NoUpdates()
        self._held_as = ("", bus.connections)
        self._told = (self._updates.said, bus.connections)
        self._last = Status("ready", state.boot)
        self._task: Task | None = None
        self._begun: Task | None = None  # what is being trained, though a newer task may have come
        self._fetcher = Fetcher(device, topics, bus, state.blobs, clock)
        self._uploader = Uploader(device, topics, bus, state.spool, clock)
        self._resting = (0.0, 0.0)  # until when, and how long
        self._counted_down = 0
        self._dropped = 0  # updates that no receipt came for, since this start
        self._detour = 0  # the round whose weights are fetched whole, for their patch was no good
        self._stopping: Callable[[], bool] = lambda: False
        bus.subscribe(topics.receipt(device))
        bus.subscribe(topics.task)

    def step(self, timeout: float) -> None:
        """Handle what arrives within `timeout` seconds, then do the next piece of work."""
        for delivery in self._bus.deliveries(timeout):
            self._handle(delivery)
        if self._held().memory:
            self._trainer.close()
        if self._task is not None and self._clock() >= self._resting[0]:
            try:
                self._advance(self._task)
            except FrameError as error:
                log.warning("%s", error)
            except (StoreError, TooLarge) as error:
                self._rest(error)
        self._updates.step(self._at())
        told, self._told = self._told, (self._updates.said, self._bus.connections)
        if self._told != told and (self._updates.said or told[0]):  # over a new link as well, whose birth says less
            self._say(self._last)

    def due(self) -> float:
        """When to step though nothing arrives, by the clock: the past for work at hand, infinity for none.

        What `hold` says is not asked: who steps by this looks at the guards as well.
        """
        if self._task is None:
            return self._updates.due()
        over = self._task.round <= self._state.round or self._late(self._task)
        return min(self._updates.due(), max(self._resting[0], (self._uploader if over else self._fetcher).due()))

    def run(self, stopping: Callable[[], bool]) -> None:
        """Step until `stopping()`, in the middle of training too, or until another version is to go on; say goodbye."""
        self._stopping = stopping
        while not stopping() and not self._updates.leaving:
            self.step(1.0)
        self.close()

    def close(self) -> None:
        """End the trainer, say that the device is away, and leave."""
        self._trainer.close()
        self._say(Status("away", self._state.boot))
        self._bus.close()

    def _advance(self, task: Task) -> None:
        """Do the next piece of work for `task`. Raises StoreError, FrameError."""
        late = self._late(task)
        if late or task.round <= self._state.round:
            try:
                self._uploader.step(late or task.round)
            except Rotten:
                log.warning("round %d: the spooled update cannot be read; training once more", late or task.round)
                self._state.finish((late or task.round) - 1)
        elif self._begun is not None and self._begun is not task and counts(self._begun, task):
            if not self._hold().state:
                self._work(self._begun)
        elif not task.calls(self.device, self._ability):
            self._drop(task)
            self._finish(task)
        elif not self._hold().state and all(map(self._fetcher.fetch, self._wanted(task))):
            self._work(task)

    def _handle(self, delivery: Delivery) -> None:
        try:
            if delivery.topic == self._topics.task:
                self._take_task(delivery.payload)
            elif delivery.topic == self._topics.receipt(self.device):
                self._take_receipt(decode(Receipt, delivery.payload))
            else:
                self._updates.take(delivery.topic, delivery.payload)
                self._fetcher.take(delivery.topic, delivery.payload)
        except FrameError as error:
            log.warning("dropped a message on %s: %s", delivery.topic, error)
        except (StoreError, TooLarge) as error:
            self._rest(error)

    def _take_task(self, payload: bytes) -> None:
        if not payload:  # cleared: the federation is over
            self._task = None
            return
        task = decode(Task, payload)
        if self._task is not None and task.round <= self._task.round:
            if task.round == self._task.round:
                self._uploader.again()  # an aggregator that was started anew says its task again
            return
        anew, self._task = self._task is None and task.round < self._state.round, task
        log.info("round %d: %s", task.round, "called" if task.calls(self.device, self._ability) else "not called")
        self._fetcher.cancel()
        if not self._late(task):  # else what was said of the update still holds
            self._uploader.anew()
        self._resting = (0.0, 0.0)
        if anew:
            # What is retained is the newest there is, so the fleet's rounds have been begun anew, below our memory.
            log.warning("round %d follows round %d: the fleet has begun anew", task.round, self._state.round)
            self._state.finish(task.round - 1)

    def _work(self, task: Task) -> None:
        program, weights = self._state.blobs / task.program.digest, self._state.blobs / task.weights.digest
        if task is not self._begun:
            patch = (task.patch.base, task.patch.blob.digest) if task.patch and not weights.is_file() else ()
            self._state.forget_blobs((*(blob.digest for blob in task.needed), *patch))
        if not task.train:
            self._drop(task)
            self._finish(task)
            return
        self._begun = task
        try:
            update = self._trainer.train(task, program, weights, self._superseded(task))
        except StoreError:
            raise
        except FedfleetError as error:
            self._begun = None
            if not self._stopping():  # who ends us may have ended the training process as well: no fault of the task
                self._decline(task, error)
            return
        if update is None:
            return
        self._begun = None
        down = self._bus.received - self._counted_down
        self._drop(task)
        counts = {"down": float(down), "dropped": float(self._dropped)}
        offered = self._state.spool.keep(replace(update, metrics={**update.metrics, **counts}))
        self._finish(task)
        self._counted_down += down
        self._uploader.fresh(offered)

    def _drop(self, task: Task) -> None:
        """Make room in the spool: what is in it has waited for its receipt until now, and `task` supersedes it."""
        if gone := self._state.spool.clear():
            self._dropped += gone
            log.warning("round %d: an update of an earlier round was never counted, and is dropped", task.round)

    def _wanted(self, task: Task) -> Iterator[Blob]:
        """What `task` takes, one after the other."""
        return (self._way(task) if blob == task.weights else blob for blob in task.needed)

    def _way(self, task: Task) -> Blob:
        """What to fetch for the weights: the patch to those that are here, where there are such, or the whole."""
        if task.patch is None or not task.train or self._detour == task.round or self._state.blob(task.weights):
            return task.weights
        base = self._state.blob(Blob(task.patch.base, task.weights.size))
        return task.patch.blob if base else task.weights

    def _superseded(self, task: Task) -> Callable[[], bool]:
        """Return a predicate that handles deliveries while training goes on."""

        def stop() -> bool:
            for delivery in self._bus.deliveries(0):
                self._handle(delivery)
            if self._held().memory or not counts(task, self._task) or self._stopping():
                self._begun = None  # what is begun again is better begun with the newest
                return True
            return False

        return stop

    def _late(self, task: Task) -> int:
        """The round of an update that was spooled before `task` came and may still count by it, else 0."""
        spooled = self._state.spool.round() if task.staleness else 0
        return spooled if spooled and 0 < task.round - spooled <= task.staleness else 0

    def _held(self) -> Hold:
        """What the device's guards say: told at each change, and again over a new link, whose birth says `ready`."""
        hold = self._hold()
        said, self._held_as = self._held_as, (hold.state, self._bus.connections)
        if said != self._held_as and (hold.state or said[0]):
            log.info("%s", f"{hold.state}: {hold.reason}" if hold.state else "work goes on")
            self._say(Status(hold.state or "ready", self._state.boot, reason=seen(hold.reason)))
        return hold

    def _decline(self, task: Task, error: FedfleetError) -> None:
        """Give this round up and say why; the next one finds the device ready."""
        log.error("round %d declined: %s", task.round, error)
        sound = [self._state.verify(blob) for blob in task.needed]
        if isinstance(error, ProgramError) and not all(sound):
            self._detour = task.round
            return  # what was on disk has rotted and is gone, or a patch was no good: the next step fetches the whole
        self._state.finish(task.round)
        self._updates.declined(f"round {task.round} declined: {error}")
        self._say(Status(self._held_as[0] or "ready", self._state.boot, declined=task.round, reason=seen(str(error))))

    def _rest(self, error: FedfleetError) -> None:
        """Wait, and say so: the disk is full or read-only, or the broker takes no part of an update.

        The round is not given up for that, though nobody is to wait for this device.
        """
        pause = min(2 * self._resting[1], REST[1]) if self._resting[1] else REST[0]
        self._resting = (self._clock() + pause, pause)
        declined = self._task.round if self._task is not None else 0
        log.error("%s; trying again in %g s", error, pause)
        self._say(Status(self._held_as[0] or "ready", self._state.boot, declined=declined, reason=seen(str(error))))

    def _take_receipt(self, receipt: Receipt) -> None:
        if self._task is None or receipt.round != (self._late(self._task) or self._task.round):
            return
        if receipt.outcome == "missing":
            self._uploader.asked(receipt)
            return
        if receipt.outcome == "refused":
            log.warning("round %d: update refused: %s", receipt.round, receipt.reason)
        self._uploader.done()

    def _finish(self, task: Task) -> None:
        self._state.finish(task.round)
        self._updates.finished(task.round)

    def _at(self) -> str:
        """What the agent is at, as `Updates.step` wants to know it."""
        if self._hold().state:
            return "held"
        done = self._task is None or self._task.round <= self._state.round or bool(self._late(self._task))
        return "training" if self._begun is not None else "idle" if done else "fetching"

    def _say(self, status: Status) -> None:
        self._last = status
        whole = replace(status, ability=self._ability, version=self._updates.version, release=self._updates.said)
        self._bus.publish(self._topics.status(self.device), encode(whole), retain=True)


def birth(state: State, ability: Ability = UNKNOWN, version: str = "", release: str = "") -> bytes:
    """What a device says at every connection."""
    return encode(Status("ready", state.boot, ability=ability, version=version, release=release))


def death(state: State, ability: Ability = UNKNOWN, version: str = "", release: str = "") -> bytes:
    """What the broker says for a device that is lost."""
    return encode(Status("lost", state.boot, ability=ability, version=version, release=release))
