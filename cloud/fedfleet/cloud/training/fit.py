"""Data-parallel training under a synchronous `tf.distribute` strategy: one device, all of a machine, several machines.

All processes that take part call `fit` with the same job. The first one keeps the backups; what it finds in them it
hands to the others, so they need no folder in common. TensorFlow is loaded here.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.cloud.training.backups import Backups
from fedfleet.cloud.training.job import Job, Passed, Tell, Trained
from fedfleet.cloud.training.steps import built, descent, feed, loss_of, objective, optimizer, tensors
from fedfleet.models.trace import variable
from fedfleet.wire.errors import ModelError, SettingsError, WorkerLost

Advance = Callable[..., None]
BLAMED = re.compile(r"aborted by: .*?/job:(\w+)/(?:replica:\d+/)?task:(\d+)", re.DOTALL)
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class Place(tf.Module):  # type: ignore[misc]
    """Where a job is: how many epochs are done, how many steps of the next one, and the sum of their losses."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch, self.step = (tf.Variable(0, dtype=tf.int64, trainable=False) for _ in range(2))
        self.total = tf.Variable(0.0, trainable=False)

    def turn(self) -> float:
        """Begin the next epoch; returns the mean loss of the one that is over."""
        return float(self._turn())

    @tf.function  # type: ignore[untyped-decorator]
    def _turn(self) -> Any:  # all of it, or on an interrupt nothing
        mean = self.total / tf.cast(self.step, tf.float32)
        self.epoch.assign_add(1)
        self.step.assign(0)
        self.total.assign(0.0)
        return mean


def fit(job: Job, strategy: Any, tell: Tell = lambda _: None) -> Trained:
    """Train the job under `strategy`, from its backup where there is one; the same result for any number of replicas.

    On KeyboardInterrupt a single process leaves a backup of where it is. Raises SettingsError where the batch does not
    divide by the replicas or the folder is another job's, ModelError, StoreError, and WorkerLost.
    """
    share = job.share(strategy.num_replicas_in_sync)
    loss = loss_of(job)
    with _converted(job), _kept(job, strategy) as folder:
        with strategy.scope():
            model, place, steps = built(job), Place(), optimizer(job)
            steps.build(model.trainable_variables)
        backups = Backups(folder, facts(job, model), model=model, optimizer=steps, place=place)
        backups.load()
        if _several(strategy):
            _agree(strategy, [*model.variables, *states(steps), *place.variables])
        resumed = int(place.epoch.numpy())
        advance = _advance(strategy, place, descent(model, steps, objective(model, loss, job.batch)))
        try:
            losses = tuple(_epochs(job, strategy, share, place, advance, backups, tell))
        except KeyboardInterrupt:
            if not _several(strategy):  # those would have to write it together
                backups.save()
            raise
        return Trained(tuple(np.asarray(each) for each in model.get_weights()), losses, resumed, _words(strategy))


def _epochs(
    job: Job, strategy: Any, share: int, place: Place, advance: Advance, backups: Backups, tell: Tell
) -> Iterator[float]:
    """Do what is left of the job, and yield the mean loss of each epoch."""
    data = tensors(job)
    while (epoch := int(place.epoch.numpy())) < job.epochs:
        first = int(place.step.numpy())
        tell(Passed(epoch + 1, first, job.steps))

        def part(context: Any, epoch: int = epoch, first: int = first) -> Any:
            return feed(job, data, share, epoch, first, context.input_pipeline_id, context.num_input_pipelines)

        batches = strategy.distribute_datasets_from_function(part)
        for step, batch in enumerate(batches, first + 1):
            advance(*batch)
            if step < job.steps:
                tell(Passed(epoch + 1, step, job.steps))
        mean = place.turn()
        if not np.isfinite(mean):
            raise ModelError(f"the loss is {mean} after epoch {epoch + 1}; train at a lower learning rate")
        backups.save()
        tell(Passed(epoch + 1, job.steps, job.steps, mean))
        yield mean


def _advance(strategy: Any, place: Place, step: Callable[..., Any]) -> Advance:
    """One step of all replicas that notes in `place` that it was done: both, or on an interrupt neither."""

    @tf.function  # type: ignore[untyped-decorator]
    def advance(x: Any, y: Any, weight: Any) -> None:
        place.total.assign_add(strategy.reduce("SUM", strategy.run(step, args=(x, y, weight)), axis=None))
        place.step.assign_add(1)

    return advance  # type: ignore[no-any-return]


def _agree(strategy: Any, variables: list[Any]) -> None:
    """Give all workers what the first one has."""
    for each in map(variable, variables):

        def mine(each: Any = each) -> Any:
            first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
            return tf.where(first, each.read_value(), tf.zeros_like(each))

        each.assign(strategy.reduce("SUM", strategy.run(mine), axis=None))


@contextmanager
def _converted(job: Job) -> Iterator[None]:
    """Raise WorkerLost where TensorFlow says that another process has gone, SettingsError where memory is short."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise SettingsError(f"there is too little memory for a batch of {job.batch}; take a smaller one") from None
    except LOST as error:
        who = BLAMED.search(error.message)
        raise WorkerLost(f"{' '.join(who.groups()) if who else 'a worker'} was lost") from None


@contextmanager
def _kept(job: Job, strategy: Any) -> Iterator[Path]:
    """The folder for backups: the job's, or for all workers but the first one that goes with the process."""
    if strategy.extended.should_checkpoint:
        yield job.folder
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def facts(job: Job, model: Any) -> dict[str, Any]:
    """Return what decides the steps: the job's facts, and the weights that `model` starts with."""
    start = hashlib.sha256(b"".join(np.asarray(each).tobytes() for each in model.get_weights())).hexdigest()
    return job.facts() | {"start": start}


def states(keras_optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer."""
    found = keras_optimizer.variables
    return list(found() if callable(found) else found)  # a method in older versions of Keras


def _several(strategy: Any) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _words(strategy: Any) -> str:
    name, count = type(strategy).__name__.removesuffix("V1"), strategy.num_replicas_in_sync
    return f"{name}, {count} replica{'s' if count > 1 else ''}"
