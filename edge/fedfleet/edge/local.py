"""Training in this process: a task, a program and a store in; an update out. Loads numpy and the runtime."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedfleet.edge.controls import Controls
from fedfleet.edge.data import Batch, Store, batches, gathered
from fedfleet.edge.holdout import COUNT, LOSS, Divide, Index, divided, examined
from fedfleet.edge.private import Private
from fedfleet.edge.residual import encoded
from fedfleet.edge.runtime import Program, read_blob
from fedfleet.edge.trainer import Stop
from fedfleet.wire import files
from fedfleet.wire.codecs import Weights, grow, spoken
from fedfleet.wire.errors import DataError, FrameError, ProgramError, SettingsError, StoreError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import SCALARS, SGD, Blob, Plan, Task, Update


class LocalTrainer:
    """A trainer that runs the program right here; the child process is built around it."""

    def __init__(self, device: str, examples: Path, load: Callable[[Path, str], Program] = Program) -> None:
        """Train for `device` on the store in folder `examples`; what stays is kept beside it.

        `load` returns the program of a path and a digest; one that others use as well must not be set meanwhile.
        """
        self._device = device
        self._examples = examples
        self._load = load
        self._program: Program | None = None

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Train as `task` says on the store's examples as they are now."""
        if self._program is None or self._program.digest != task.program.digest:
            self._program = self._load(program, task.program.digest)
        shared = task_weights(weights, task)
        if shared.shape != (self._program.shared,):
            raise ProgramError(f"weights have shape {shared.shape}, the program wants ({self._program.shared},)")
        private = self._kept("local", task, self._program.local, programs=2)
        size, start = shared.size, np.concatenate([shared, private.before(task.round)])
        del shared  # on a board every vector counts
        store = Store.open(self._examples)
        if len(store) == 0:
            raise StoreError(f"{self._examples} holds no examples yet: fedfleet-agent import FILE")
        self._program.set(start)
        seed = batch_seed(task, self._device)
        records = store.records()
        parts, divide = [Examples(part["x"], part["y"]) for part in records], divided(records, task.plan.holdout)
        before = said(self._program, task, parts, divide, stop)
        if before is None:
            return None
        control = self._controls(task, weights, size)
        if control is not None:
            self._program.correct(np.concatenate([control.correction, np.zeros_like(self._program.local)]))
        drawn = labelled(planned(parts, divide.learned, self._program.batch, task.plan, seed), self._program.classes)
        losses = fit(self._program, task.plan, drawn, stop, seed)
        if losses is None:
            return None
        trained = self._program.get()
        delta = np.subtract(trained, start, out=start)
        if not np.isfinite(delta).all():
            raise ProgramError(
                f"training diverged in round {task.round}: weights are not finite; lower the learning rate"
            )
        codec = spoken(task.plan.codec)
        data = self._encoded(codec, task, delta[:size], control, losses.steps)
        if self._program.local.size:
            private.keep(task.round, trained[size:])
        metrics = {
            "loss": losses.mean,
            "steps": float(losses.steps),
            "seconds": losses.seconds,
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        return Update(task.round, self._device, len(divide.learned), codec, data, metrics | before)

    def _controls(self, task: Task, weights: Path, size: int) -> Controls | None:
        """What `task` has this device correct its gradients by, if anything."""
        if task.control is None:
            return None
        digest = task.control.blob.digest
        server = read_weights(weights.with_name(digest), digest)
        if server.size != size:
            raise ProgramError(f"the control has {server.size} weights, the program shares {size}")
        return Controls(server, self._kept("control", task, np.zeros_like(server)).before(task.round, task.control.has))

    def _encoded(self, codec: str, task: Task, delta: Weights, control: Controls | None, steps: int) -> bytes:
        """What goes up, once what stays here for later rounds is on the disk; the weights' change comes first."""
        change = control.change(delta, steps, task.plan.learning_rate) if control else delta[:0]
        learned = np.concatenate([delta, change]) if control else delta
        residual = self._kept("residual", task, np.zeros_like(learned))
        data = encoded(codec, learned, residual, task.round, batch_seed(task, self._device))
        if control and task.control:
            self._kept("control", task, control.own).keep(task.round, control.own + change, task.control.has)
        return data

    def _kept(self, name: str, task: Task, initial: Weights, programs: int = 1) -> Private:
        """What lies beside the examples, of the task's program."""
        return Private(self._examples.with_name(name), task.program.digest, initial, programs)

    def close(self) -> None:
        """Forget the program."""
        self._program = None


class Losses(NamedTuple):
    """The mean training loss over all steps, how many there were, and the seconds they took, pauses left out."""

    mean: float
    steps: int
    seconds: float


def fit(program: Program, plan: Plan, drawn: Iterable[Batch], stop: Stop, seed: int) -> Losses | None:
    """Run the plan's steps on `program`; None if stopped. An exhausted time budget ends training, not the update.

    A program with dropout gets a seed a step, counted up from `seed` modulo 2^31.
    """
    total, steps = 0.0, 0
    began = time.monotonic()
    rates = {name: np.array([getattr(plan, name)], np.float32) for name in SCALARS}
    adapted = program.corrected or any(rates[name] for name in SCALARS if name not in SGD)
    descent = {name: rates[name] * (not adapted) for name in SGD}
    for batch in drawn:
        asked = time.monotonic()
        if stop():
            return None
        began += time.monotonic() - asked  # a pause is none of its time
        drop = {"seed": np.array([(seed + steps) % 2**31], np.int32)} if program.seeded else {}
        total += program.train(x=batch.x, y=batch.y, weight=batch.weight, **descent, **drop)
        if adapted:
            program.adapt(**rates)
        steps += 1
        if plan.time_budget and time.monotonic() - began > plan.time_budget:
            break
    return Losses(total / max(steps, 1), steps, time.monotonic() - began)


def said(
    program: Program, task: Task, parts: Sequence[Examples], divide: Divide, stop: Stop
) -> dict[str, float] | None:
    """Return what `task` wants to know of the program's weights as they are, as metrics; None if stopped.

    Raises ProgramError where a loss that the round is to be weighed by is not finite.
    """
    metrics: dict[str, float] = {}
    for wanted, index in (("before", divide.learned), ("evaluate", divide.held)):
        if not (task.plan.before if wanted == "before" else task.evaluate):
            continue
        found = examined(program, labelled(gathered(parts, index, program.batch), program.classes), stop)
        if found is None:
            return None
        if wanted == "before" and LOSS not in found:
            raise ProgramError("the model's loss on this device's examples is not finite; lower the learning rate")
        metrics |= {"before": found[LOSS] / found[COUNT]} if wanted == "before" else found
    return metrics


def batch_seed(task: Task, device: str) -> int:
    """Return the seed of a device's batches in a round: the same wherever and whenever it trains."""
    digest = hashlib.sha256(f"batches:{task.seed}:{task.round}:{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def task_weights(path: Path, task: Task) -> Weights:
    """Return the weights that `task` starts from, patched together first where they are not at `path` yet.

    Base and patch lie beside it, under their digests. Raises ProgramError where that does not lead to these weights.
    """
    if task.patch is not None and not path.is_file():
        base = read_weights(path.with_name(task.patch.base), task.patch.base)
        try:
            change = grow(task.patch.codec, read_blob(path.with_name(task.patch.blob.digest)), base.size)
        except (FrameError, SettingsError) as error:
            raise ProgramError(f"the patch of round {task.round} cannot be used: {error}") from None
        after = (base + change).astype("<f4").tobytes()
        if Blob.of(after) != task.weights:
            raise ProgramError(f"the patch of round {task.round} leads to other weights than the task's")
        files.write(path, after)
    return read_weights(path, task.weights.digest)


def read_weights(path: Path, digest: str) -> Weights:
    """Return the weights blob at `path`, little-endian float32; raises ProgramError if it is not `digest`."""
    data = read_blob(path)
    if hashlib.sha256(data).hexdigest() != digest or len(data) % 4:
        raise ProgramError(f"weights {digest[:12]} on disk have other bytes than their name says")
    return np.frombuffer(data, "<f4").astype(np.float32)


def planned(parts: Sequence[Examples], chosen: Index, size: int, plan: Plan, seed: int) -> Iterator[Batch]:
    """Return the batches that `plan` asks for, of the `chosen` examples."""
    if plan.steps:
        return batches(parts, size, seed, steps=plan.steps, chosen=chosen)
    return batches(parts, size, seed, epochs=plan.epochs, chosen=chosen)


def labelled(drawn: Iterable[Batch], classes: int | None) -> Iterator[Batch]:
    """Pass on batches whose labels are below `classes`; raises DataError at the first that are not.

    The program itself would take such a label for no class at all, and train on it without a word.
    """
    for batch in drawn:
        if classes is not None and not 0 <= batch.y.min() <= batch.y.max() < classes:
            raise DataError(
                f"an example has label {int(batch.y.max())}, but the model tells {classes} classes apart: relabel it"
            )
        yield batch
