"""Training of a model that is too large for one device: `tf.experimental.dtensor`, over a mesh of all devices.

Each device has one part of every batch, and of every weight and its optimizer's state only one part; see `laid`. The
steps are those of one device. Since not every op of TensorFlow computes rightly on a mesh, a rehearsal compares the
gradient of a few examples with the host's own before anything is trained. TensorFlow is loaded here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.experimental import dtensor

from fedfleet.cloud.replicas import devices
from fedfleet.cloud.training.backups import Backups
from fedfleet.cloud.training.copies import Copies
from fedfleet.cloud.training.fit import facts
from fedfleet.cloud.training.grid import Grid
from fedfleet.cloud.training.job import MOMENTUM, Job, Passed, Tell, Trained
from fedfleet.cloud.training.laid import BATCH, MODEL, Laid, Placed, name_of, parted, whole, zeros
from fedfleet.cloud.training.steps import built, feed, loss_of, objective, tensors
from fedfleet.models.losses import Loss
from fedfleet.wire.errors import ModelError, SettingsError

Tensor = Any
EXAMPLES = 2  # of each part of the batch, for the rehearsal
NEAR = 1e-3  # how far gradients may be apart, relative to the greatest of a weight: float32 in another order
FAINT = 1e-2
FEW = 4  # names in a line
OP = re.compile(r"'tf\.(\w+)' op")
CAUSE = re.compile(r"error: (.+)")
FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-7  # Adam's, as Keras has them


def mesh(grid: Grid) -> Any:
    """Return the mesh of `grid`, over all GPUs, or parts of the CPU where there are none; raises SettingsError."""
    try:
        names = devices(grid.devices)
    except SettingsError as error:
        raise SettingsError(f"mesh {grid} is of {grid.devices} devices: {error}") from None
    return dtensor.create_mesh(
        [(BATCH, grid.batch), (MODEL, grid.model)], devices=[n.split("device:")[1] for n in names]
    )


def train(job: Job, over: Any, tell: Tell = lambda _: None) -> Trained:
    """Train the job over a mesh, from its backup where there is one; the result is that of one device.

    Raises SettingsError where the batch does not divide by the mesh's, or the folder is another job's, StoreError, and
    ModelError where a mesh cannot train the model; that names what prevents it.
    """
    job.share(over.dim_size(BATCH), "parts of the mesh's batch")
    loss = loss_of(job)
    laid = _laid(job, loss, over)
    optimizer = Optimizer(job, laid.trainable_variables)
    states = [*laid.variables, *optimizer.states]
    copies = Copies([whole(each) for each in states])
    backups = Backups(job.folder, facts(job, built(job)) | {"kept": "by mesh"}, copies=copies)
    backups.load()
    for state, value in zip(states, copies.values()):
        state.assign(parted(value, state.layout))
    resumed = int(copies.epoch.numpy())
    step = _step(laid, optimizer, objective(laid, loss, job.batch))
    losses = []
    for epoch in range(resumed, job.epochs):
        losses.append(_epoch(job, over, epoch, step, tell))
        copies.note(epoch + 1, [whole(each) for each in states])
        backups.save()
        tell(Passed(epoch + 1, job.steps, job.steps, losses[-1]))
    return Trained(laid.weights(), tuple(losses), resumed, _words(over, laid.places()))


class Optimizer:
    """The job's optimizer on a mesh. `apply` takes one gradient for each of `variables`.

    It is not Keras's own, which assigns the new momentum and then reads it: inside one function on a mesh such a read
    gives the old value.
    """

    def __init__(self, job: Job, variables: Sequence[Any]) -> None:
        self._rate, self._variables = job.learning_rate, variables
        kept = {"sgd": 0, "momentum": 1, "adam": 2}[job.optimizer]
        self._slots = [[zeros(each) for each in variables] for _ in range(kept)]
        self._rule = {"sgd": self._sgd, "momentum": self._momentum, "adam": self._adam}[job.optimizer]
        layout = dtensor.Layout.replicated(variables[0].layout.mesh, 0)
        self._taken = dtensor.DVariable(parted(np.zeros((), np.float32), layout))

    @property
    def states(self) -> list[Any]:
        """What it keeps on the mesh from step to step."""
        return [each for slot in self._slots for each in slot] + [self._taken]

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """Take a step."""
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]  # an embedding's comes as slices
        self._rule([dtensor.relayout(g, each.layout) for g, each in zip(dense, self._variables)])

    def _sgd(self, gradients: Sequence[Tensor]) -> None:
        for each, gradient in zip(self._variables, gradients):
            each.assign_sub(self._rate * gradient)

    def _momentum(self, gradients: Sequence[Tensor]) -> None:
        for each, slot, gradient in zip(self._variables, self._slots[0], gradients):
            moved = MOMENTUM * slot.read_value() - self._rate * gradient
            slot.assign(moved)
            each.assign_add(moved)

    def _adam(self, gradients: Sequence[Tensor]) -> None:
        """Kingma and Ba 2015, section 2, the second form."""
        taken = self._taken.read_value() + 1.0
        rate = self._rate * tf.sqrt(1.0 - tf.pow(SECOND, taken)) / (1.0 - tf.pow(FIRST, taken))
        self._taken.assign(taken)
        for each, mean, squares, gradient in zip(self._variables, *self._slots, gradients):
            first, second = mean.read_value(), squares.read_value()
            first += (1.0 - FIRST) * (gradient - first)
            second += (1.0 - SECOND) * (gradient * gradient - second)
            mean.assign(first)
            squares.assign(second)
            each.assign_sub(rate * first / (tf.sqrt(second) + EPSILON))


def _step(laid: Laid, optimizer: Optimizer, part: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            value = part(x, y, weight)
        optimizer.apply(tape.gradient(value, laid.trainable_variables))
        return value

    return step  # type: ignore[no-any-return]


def _epoch(job: Job, over: Any, epoch: int, step: Callable[..., Tensor], tell: Tell) -> float:
    """Train for one epoch; returns its mean loss. Raises ModelError where that is no number."""
    tell(Passed(epoch + 1, 0, job.steps))
    total = 0.0
    for done, batch in enumerate(feed(job, tensors(job), job.batch, epoch), 1):
        total += float(step(*(_dealt(each.numpy(), over) for each in batch)).numpy())
        if done < job.steps:
            tell(Passed(epoch + 1, done, job.steps))
    if not np.isfinite(total):
        raise ModelError(f"the loss is {total} in epoch {epoch + 1}; train at a lower learning rate")
    return total / job.steps


def _dealt(values: NDArray[Any], over: Any) -> Tensor:
    """Rows of a batch on the mesh: each device has those of its part."""
    return parted(values, dtensor.Layout.batch_sharded(over, BATCH, values.ndim))


def _laid(job: Job, loss: Loss, over: Any) -> Laid:
    """Return the model on the mesh as its rehearsal has proved it; raises ModelError where there is no such way."""
    reason = ""
    for apart in (True, False):
        model = built(job)
        reason = _unlike(job, loss, model, Laid(model, over, apart=apart), over)
        if not reason:
            return Laid(built(job), over, apart=apart)  # the other one's running means have moved
    raise ModelError(f"a mesh cannot train this model ({reason}); train it with --strategy mirrored")


def _unlike(job: Job, loss: Loss, model: Any, laid: Laid, over: Any) -> str:
    """Say in what the gradient on the mesh is not that of `model` on the host; nothing where they agree."""
    rows = np.resize(np.arange(len(job.examples.x)), EXAMPLES * over.dim_size(BATCH))
    batch = job.examples.x[rows], job.examples.y[rows], np.ones(len(rows), np.float32)
    training = not laid.random  # what is drawn on a mesh is not what one device draws
    try:
        found = _gradients(laid, loss, training)(*(_dealt(each, over) for each in batch))
    except (tf.errors.OpError, ValueError, TypeError, AttributeError) as error:  # what tracing a layer there may raise
        return _reason(error)
    with tf.device("CPU:0"):
        wanted = [each.numpy() for each in _gradients(model, loss, training)(*map(tf.constant, batch))]
    greatest = max(float(np.abs(each).max()) for each in wanted)
    for weight, ours, theirs in zip(model.trainable_variables, map(whole, found), wanted):
        # a gradient that is 0 but for roundings, as a bias has before BatchNormalization, has no scale of its own
        scale = max(float(np.abs(theirs).max()), FAINT * greatest)
        if not np.abs(ours - theirs).max() <= NEAR * scale:
            return f"its gradient of {name_of(weight)} is not the one of a single device"
    return ""


def _gradients(model: Any, loss: Loss, training: bool) -> Callable[..., list[Tensor]]:
    """What computes the gradients of the mean loss of (x, y, weight), in the layout of the model's weights."""

    @tf.function  # type: ignore[untyped-decorator]
    def gradients(x: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
        part = objective(lambda x, training: model(x, training=training and mode), loss, x.shape[0])
        with tf.GradientTape() as tape:
            value = part(x, y, weight)
        found = map(tf.convert_to_tensor, tape.gradient(value, model.trainable_variables))
        if not isinstance(model, Laid):
            return list(found)
        return [dtensor.relayout(each, own.layout) for each, own in zip(found, model.trainable_variables)]

    mode = training
    return gradients  # type: ignore[no-any-return]


def _reason(error: Exception) -> str:
    """What prevents a model on a mesh, in a few words of TensorFlow's."""
    text = str(error)
    op = OP.search(text)
    if op is not None:
        return f"TensorFlow {tf.__version__} has no {op.group(1)} on a mesh"
    found = CAUSE.search(text)
    return (found.group(1) if found else next(iter(text.splitlines()), type(error).__name__))[:200]


def _words(over: Any, places: Sequence[Placed]) -> str:
    """The mesh, how the weights lie on it, and what that takes on each device."""
    parts = over.dim_size(MODEL)
    cut = [each for each in places if each.parts > 1]
    kept = [each.name for each in places if each.parts == 1]
    mib = sum(each.bytes for each in places) / 2**20, sum(each.bytes // each.parts for each in places) / 2**20
    names = ", ".join(kept[:FEW]) + (f" and {len(kept) - FEW} more" if len(kept) > FEW else "")
    rest = f"; whole on each: {names}" if kept else ""
    return (
        f"DTensor, mesh batch={over.dim_size(BATCH)},model={parts}: {len(cut)} of {len(places)} weights in {parts} "
        f"parts, {mib[1]:.3g} of {mib[0]:.3g} MiB on each device{rest}"
    )
