"""The agent: follow the newest task, fetch what it names, train, and keep the update until its receipt.

One thread, no clock of its own, nothing heavier than the standard library: `step` handles what has arrived and does
the next piece of work, so that a simulation can drive a thousand of them. A newer task supersedes whatever is going
on. Crash-only: what must survive is in `State` before anything is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from fedfleet.edge.state import State
from fedfleet.edge.trainer import Hold, Trainer
from fedfleet.wire.bus import Bus, Delivery
from fedfleet.wire.chunks import Assembly, open_part, split
from fedfleet.wire.errors import FedfleetError, FrameError, ProgramError
from fedfleet.wire.messages import Blob, Receipt, Status, Task, decode, encode, seen
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.agent")
RESEND = 15.0  # seconds without a receipt after which an update is sent again


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
    ) -> None:
        """`clock` returns monotonic seconds; `bus` has been given `birth` and `death` as its will.

        While `hold` gives a reason, nothing is fetched and no training begins; `trainer` itself pauses what runs.
        """
        self.device = device
        self._topics = topics
        self._bus = bus
        self._state = state
        self._trainer = trainer
        self._clock = clock
        self._hold = hold
        self._held_as = ("", bus.connections)
        self._task: Task | None = None
        self._fetching: dict[str, Assembly] = {}
        self._sent_at: float | None = None
        self._counted_down = 0
        self._stopping: Callable[[], bool] = lambda: False
        bus.subscribe(topics.receipt(device))
        bus.subscribe(topics.task)

    def step(self, timeout: float) -> None:
        """Handle what arrives within `timeout` seconds, then do the next piece of work."""
        for delivery in self._bus.deliveries(timeout):
            self._handle(delivery)
        held, task = self._held(), self._task
        if held.memory:
            self._trainer.close()
        if task is None:
            return
        if task.round <= self._state.round:
            self._resend(task)
        elif not task.calls(self.device):
            self._state.finish(task.round)
        elif not held.state and self._fetched(task.program) and self._fetched(task.weights):
            self._work(task)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Step until `stopping()`, in the middle of training too, then say goodbye."""
        self._stopping = stopping
        while not stopping():
            self.step(1.0)
        self.close()

    def close(self) -> None:
        """End the trainer, say that the device is away, and leave."""
        self._trainer.close()
        self._say(Status("away", self._state.boot))
        self._bus.close()

    def _handle(self, delivery: Delivery) -> None:
        try:
            if delivery.topic == self._topics.task:
                self._take_task(delivery.payload)
            elif delivery.topic == self._topics.receipt(self.device):
                self._take_receipt(decode(Receipt, delivery.payload))
            elif delivery.payload:
                self._take_chunk(*self._topics.part(delivery.topic), delivery.payload)
        except FrameError as error:
            log.warning("dropped a message on %s: %s", delivery.topic, error)

    def _take_task(self, payload: bytes) -> None:
        if not payload:  # cleared: the federation is over
            self._task = None
            return
        task = decode(Task, payload)
        if self._task is not None and task.round <= self._task.round:
            return
        if self._task is None and task.round < self._state.round:
            # What is retained is the newest there is, so the fleet's rounds have been begun anew, below our memory.
            log.warning("round %d follows round %d: the fleet has begun anew", task.round, self._state.round)
            self._state.finish(task.round - 1)
        log.info("round %d: %s", task.round, "called" if task.calls(self.device) else "not called")
        for digest in self._fetching:
            self._bus.unsubscribe(self._topics.chunk(digest))
        self._task, self._fetching, self._sent_at = task, {}, None
        if task.round > self._state.round:
            self._state.unspool()
            self._state.forget_blobs((task.program, task.weights))

    def _fetched(self, blob: Blob) -> bool:
        """Whether `blob` is on disk; asks the broker for its chunks once."""
        if self._state.blob(blob) is not None:
            return True
        if blob.digest not in self._fetching:
            self._fetching[blob.digest] = Assembly(blob)
            self._bus.subscribe(self._topics.chunk(blob.digest))
        return False

    def _take_chunk(self, digest: str, index: int, chunk: bytes) -> None:
        assembly = self._fetching.get(digest)
        if assembly is None:
            return
        assembly.add(index, chunk)
        if not assembly.missing():
            self._state.keep(assembly.blob, assembly.finish())
            del self._fetching[digest]
            self._bus.unsubscribe(self._topics.chunk(digest))

    def _work(self, task: Task) -> None:
        program, weights = self._state.blob(task.program), self._state.blob(task.weights)
        if program is None or weights is None:
            return
        try:
            update = self._trainer.train(task, program, weights, self._superseded(task))
        except FedfleetError as error:
            if not self._stopping():  # who ends us may have ended the training process as well: no fault of the task
                self._decline(task, error)
            return
        if update is None:
            return
        down = self._bus.received - self._counted_down
        self._counted_down = self._bus.received
        parts = split(replace(update, metrics={**update.metrics, "down": float(down)}))
        self._state.spool(task.round, parts)
        self._state.finish(task.round)
        self._send(parts)

    def _superseded(self, task: Task) -> Callable[[], bool]:
        """Return a predicate that handles deliveries while training goes on."""

        def stop() -> bool:
            for delivery in self._bus.deliveries(0):
                self._handle(delivery)
            return self._held().memory or self._task is not task or self._stopping()

        return stop

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
        sound = [self._state.verify(blob) for blob in (task.program, task.weights)]
        if isinstance(error, ProgramError) and not all(sound):
            return  # what was on disk has rotted and is gone: the next step fetches it again
        self._state.finish(task.round)
        self._say(Status("ready", self._state.boot, declined=task.round, reason=seen(str(error))))

    def _resend(self, task: Task) -> None:
        """Send a spooled update again: at the first step after a start, and while no receipt comes."""
        if self._sent_at is None or self._clock() - self._sent_at > RESEND:
            self._send(self._state.spooled(task.round))

    def _send(self, parts: list[bytes]) -> None:
        for part in parts:
            self._bus.publish(self._topics.update(self.device), part)
        self._sent_at = self._clock()

    def _take_receipt(self, receipt: Receipt) -> None:
        if self._task is None or receipt.round != self._task.round:
            return
        if receipt.outcome == "missing":
            wanted = set(receipt.missing)
            self._send([part for part in self._state.spooled(receipt.round) if open_part(part)[0].index in wanted])
            return
        if receipt.outcome == "refused":
            log.warning("round %d: update refused: %s", receipt.round, receipt.reason)
        self._state.unspool()

    def _say(self, status: Status) -> None:
        self._bus.publish(self._topics.status(self.device), encode(status), retain=True)


def birth(state: State) -> bytes:
    """What a device says at every connection."""
    return encode(Status("ready", state.boot))


def death(state: State) -> bytes:
    """What the broker says for a device that is lost."""
    return encode(Status("lost", state.boot))
