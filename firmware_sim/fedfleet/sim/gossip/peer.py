"""One device of a fleet without a server: train, show the neighbours, wait for theirs, mix; again for the next round.

D-PSGD (Lian et al. 2017, algorithm 1) with the training before the averaging, and a round's whole local plan for one
gradient: x_i <- sum over j of W_ij (x_j + what j's training changed). The sum is in float64 and in the order of the
devices, so the same models give the same bits, in whatever order they arrived.

A wait is bounded. A neighbour that the broker calls lost is left out after `GRACE` seconds, one that is silent after
the deadline; its share goes to the device itself. That is announced, so that a neighbour which was only slow leaves
this device out in turn and the matrix stays symmetric. Who waits says so now and then, or else those who wait for it
would give it up together with the one that it waits for.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfleet.edge.trainer import Stop, Trainer
from fedfleet.sim.gossip.shared import SLOTS, Neighbour, announced, parts
from fedfleet.wire import files
from fedfleet.wire.bus import Bus, Delivery
from fedfleet.wire.codecs import Weights, grow
from fedfleet.wire.errors import FrameError, ProgramError
from fedfleet.wire.messages import Blob, Plan, Status, Task, Update, decode, encode
from fedfleet.wire.record import plain
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.gossip")
GRACE = 3.0  # seconds in which a neighbour whose link was lost may be back
BEATS = 8  # signs of life within a deadline


@dataclass(frozen=True)
class Launch:
    """What a device is told before the first round, and nothing after it; `shares` are its row of the matrix.

    One that `dies` in a simulation does so after that round, without a word.
    """

    device: str
    fleet: str
    shares: dict[str, float]
    rounds: int
    seed: int
    deadline: float
    plan: Plan
    program: Blob
    weights: Blob
    dies: int = 0
    broker: Broker | None = None


@dataclass(frozen=True)
class Entry:
    """What a device notes of a round: whose models it mixed, and what that took; `sent`, `received` since it began."""

    round: int
    mixed: tuple[str, ...]
    examples: int
    loss: float
    sent: int
    received: int
    rss_mib: float
    weights: Blob


class Peer:
    """Build it, then call `step` until it is `done`; its folder has `program.tflite` and `0.weights`."""

    def __init__(
        self, launch: Launch, folder: Path, bus: Bus, trainer: Trainer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`bus` has been given `status` as its birth and death; what is noted of each round goes to `folder`."""
        self.launch = launch
        self.round = 1
        self._folder = folder
        self._bus = bus
        self._trainer = trainer
        self._clock = clock
        self._topics = Topics(launch.fleet)
        self._near = {device: Neighbour(launch.weights.size) for device in launch.shares if device != launch.device}
        self._left: set[str] = set()
        self._lost: dict[str, float] = {}
        self._alive: dict[str, float] = {}
        self._update: Update | None = None
        self._model: Weights = np.frombuffer((folder / "0.weights").read_bytes(), "<f4").astype(np.float32)
        self._since = self._said = 0.0
        self._announced = 0
        for device in self._near:
            bus.subscribe(self._topics.status(device))
            bus.subscribe(self._topics.model(device))

    @property
    def done(self) -> bool:
        """Whether all rounds are over."""
        return self.round > self.launch.rounds

    def step(self, timeout: float, stop: Stop = lambda: False) -> None:
        """Do the next thing there is to do, waiting up to `timeout` seconds for neighbours. Raises FedfleetError."""
        if self._update is None and not self.done:
            self._learn(stop)
            timeout = 0.0
        for delivery in self._bus.deliveries(timeout):
            self._heard(delivery)
        if self._update is None or self.done:
            return
        models = {device: self._shown(device) for device in self._near if device not in self._left}
        self._give_up([device for device, model in models.items() if model is None])
        there = {device: model for device, model in models.items() if model is not None and device not in self._left}
        if there.keys() >= self._near.keys() - self._left:
            self._mix(there, self._update)

    def _learn(self, stop: Stop) -> None:
        """Train from the model as it is, and show what that led to."""
        launch, path = self.launch, self._folder / f"{self.round - 1}.weights"
        blob = Blob.of(path.read_bytes())
        task = Task(self.round, launch.program, blob, launch.plan, seed=launch.seed, deadline=launch.deadline)
        self._update = self._trainer.train(task, self._folder / "program.tflite", path, stop)
        if self._update is None:
            return
        self._model = self._model + grow(self._update.codec, self._update.delta, self._model.size)
        self._show(self._announcement, *parts(self.round, self._bytes))
        self._since = self._said = self._clock()
        self._announced = len(self._left)

    @property
    def _bytes(self) -> bytes:
        return self._model.astype("<f4").tobytes()

    @property
    def _announcement(self) -> tuple[str, bytes]:
        return announced(self.round, self._bytes, tuple(sorted(self._left)))

    def _show(self, *shown: tuple[str, bytes]) -> None:
        for part, frame in shown:
            self._bus.publish(self._topics.model(self.launch.device, self.round % SLOTS, part), frame, retain=True)

    def _heard(self, delivery: Delivery) -> None:
        """Take what a neighbour shows, and what the broker says of it; what cannot be read is dropped."""
        if not delivery.payload:
            return
        try:
            if delivery.topic.endswith("/status"):
                self._state(self._topics.device(delivery.topic), decode(Status, delivery.payload))
                return
            device, slot, part = self._topics.shown(delivery.topic)
            if device not in self._near:
                raise FrameError("shown by no neighbour")
            found = self._near[device].take(slot, part, delivery.payload)
            self._alive[device] = self._clock()
            if found is not None and self.launch.device in found.without:
                self._leave(device, "it has left this device out")
        except FrameError as error:
            log.warning("%s: %s", delivery.topic, error)

    def _state(self, device: str, status: Status) -> None:
        if status.state == "lost":
            self._lost.setdefault(device, self._clock())
        else:
            self._lost.pop(device, None)

    def _shown(self, device: str) -> Weights | None:
        """The neighbour's model of this round; one that shows what is no model is left out."""
        try:
            return self._near[device].model(self.round)
        except FrameError as error:
            self._leave(device, str(error))
            return None

    def _give_up(self, awaited: list[str]) -> None:
        """Leave out whom no more is to be waited for, and say so at once; now and then say that one waits."""
        now = self._clock()
        for device in awaited:
            if now - max(self._alive.get(device, 0.0), self._since) > self.launch.deadline:
                self._leave(device, f"silent for {self.launch.deadline:g} s")
            elif now - max(self._lost.get(device, now), self._since) > GRACE:
                self._leave(device, "the broker has lost it")
        if len(self._left) > self._announced or (awaited and now - self._said > self.launch.deadline / BEATS):
            self._show(self._announcement)
            self._said, self._announced = now, len(self._left)

    def _leave(self, device: str, why: str) -> None:
        if device not in self._left:
            self._left.add(device)
            log.warning("round %d: goes on without %s: %s", self.round, device, why)

    def _mix(self, there: Mapping[str, Weights], update: Update) -> None:
        """The weighted mean of the neighbours' models and its own; noted, and the round is over."""
        shares = {device: self.launch.shares[device] for device in there}
        models = {**there, self.launch.device: self._model}
        shares[self.launch.device] = 1 - sum(shares[device] for device in sorted(shares))
        total = np.zeros(self._model.size)
        for device in sorted(models):
            total += shares[device] * models[device].astype(np.float64)
        self._model = total.astype(np.float32)
        if not np.isfinite(self._model).all():
            raise ProgramError(f"the mean of round {self.round} is not finite; lower the learning rate")
        self._note(tuple(sorted(models)), update)
        for neighbour in self._near.values():
            neighbour.forget(self.round)
        self._update = None
        self.round += 1

    def _note(self, mixed: tuple[str, ...], update: Update) -> None:
        """Write the model, then what is to be known of the round; who finds the second finds the first."""
        data, folder = self._bytes, self._folder
        entry = Entry(
            round=self.round,
            mixed=mixed,
            examples=update.examples,
            loss=update.metrics.get("loss", 0.0),
            sent=self._bus.sent,
            received=self._bus.received,
            rss_mib=_peak(),
            weights=Blob.of(data),
        )
        files.write(folder / f"{self.round}.weights", data)
        files.write(folder / f"{self.round}.json", json.dumps(plain(entry)).encode())


def _peak() -> float:
    """MiB of memory that this process held at most; of its own, as getrusage counts what its parent held as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def status(state: str) -> bytes:
    """What a device says at every connection (`ready`), and the broker for it when it is lost."""
    return encode(Status(state, 0))
