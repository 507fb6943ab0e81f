"""Asynchronous training: the weights lie on parameter servers, and each worker moves them whenever it has a gradient.

`tf.distribute.ParameterServerStrategy` with a `ClusterCoordinator`, and not Keras's `fit`, which Keras 3 does not do
under it. The chief deals out the same batches that every other strategy takes; only the order in which they move the
weights, and how old the weights are that a gradient is of, depend on the workers. TensorFlow is loaded here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.cloud.training.backups import Backups
from fedfleet.cloud.training.cluster import absent
from fedfleet.cloud.training.copies import Copies
from fedfleet.cloud.training.fit import facts, states
from fedfleet.cloud.training.job import Job, Passed, Tell, Trained
from fedfleet.cloud.training.steps import built, descent, loss_of, objective, optimizer, tensors
from fedfleet.cloud.training.workers import Cluster
from fedfleet.wire.errors import ModelError, SettingsError, WorkerLost

Schedule = Callable[[Any, Any], Any]
TICK = 0.05
LOOK = 2.0  # seconds between two looks at whether any worker is there
LAST_WORD = 5000  # milliseconds for telling a server that it is over
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
OVER = "fedfleet-over"


def strategy(cluster: Cluster) -> Any:
    """Return the `tf.distribute.ParameterServerStrategy` of a cluster all of whose servers are there."""
    return tf.distribute.ParameterServerStrategy(_resolver(cluster))


def train(job: Job, under: Any, cluster: Cluster, wait: float, tell: Tell = lambda _: None) -> Trained:
    """Train the job as the chief of `cluster`, from its backup where there is one; then the servers end.

    A worker that goes is done without until it is back. Raises WorkerLost where a parameter server has gone, or
    workers have and nothing moves for `wait` seconds; SettingsError where the folder is another job's; ModelError,
    StoreError.
    """
    loss = loss_of(job)
    with _converted():
        with under.scope():
            model, steps = built(job), optimizer(job)
            steps.build(model.trainable_variables)
            taken = tf.Variable(0, dtype=tf.int64, trainable=False)
        variables = [*model.variables, *states(steps)]
        copies = Copies([each.numpy() for each in variables])
        backups = Backups(job.folder, facts(job, model) | {"kept": "by servers"}, copies=copies)
        if backups.load():
            for each, value in zip(variables, copies.values()):
                each.assign(value)
        resumed = int(copies.epoch.numpy())
        course = _Course(job, under, cluster, wait, taken, descent(model, steps, objective(model, loss, job.batch)))
        losses = []
        for epoch in range(resumed, job.epochs):
            losses.append(course.epoch(epoch, tell))
            copies.note(epoch + 1, [each.numpy() for each in variables])
            backups.save()
            tell(Passed(epoch + 1, job.steps, job.steps, losses[-1]))
        weights = tuple(np.asarray(each) for each in model.get_weights())
    dismiss(cluster)
    return Trained(weights, tuple(losses), resumed, _words(cluster))


class _Course:
    """What the chief has of the workers: their coordinator, and the step that each takes on its copy of the data."""

    def __init__(
        self, job: Job, under: Any, cluster: Cluster, wait: float, taken: Any, step: Callable[..., Any]
    ) -> None:
        self._job, self._cluster, self._wait, self._taken = job, cluster, wait, taken
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(under)
        x, y = tensors(job)
        # one element, all of the data: it goes to a worker once, and steps name rows of it
        own = self._coordinator.create_per_worker_dataset(lambda: tf.data.Dataset.from_tensors((x, y)).repeat())
        self._data = iter(own)

        @tf.function  # type: ignore[untyped-decorator]
        def scheduled(data: Any, rows: Any, weight: Any) -> Any:
            every, labels = next(data)
            value = under.run(step, args=(tf.gather(every, rows), tf.gather(labels, rows), weight))
            taken.assign_add(1)
            return value

        self._scheduled = scheduled

    def epoch(self, epoch: int, tell: Tell) -> float:
        """Have every batch of an epoch taken; returns their mean loss. Raises WorkerLost, and ModelError if it is none.

        A worker that is lost between the end of its step and its answer has its batch taken twice.
        """
        tell(Passed(epoch + 1, 0, self._job.steps))
        before = int(self._taken.numpy())
        losses = [self._schedule(rows) for rows in self._job.rows(epoch)]
        watch = _Watch(self._cluster, self._wait)
        while not self._coordinator.done():
            time.sleep(TICK)
            if watch.due():
                taken = int(self._taken.numpy()) - before
                watch.look(taken)
                tell(Passed(epoch + 1, min(taken, self._job.steps), self._job.steps))
        mean = float(np.mean([float(each.fetch()) for each in losses]))
        if not np.isfinite(mean):
            raise ModelError(f"the loss is {mean} after epoch {epoch + 1}; train at a lower learning rate")
        return mean

    def _schedule(self, rows: Any) -> Any:
        there = rows >= 0
        weight = (there * (self._job.batch / there.sum())).astype(np.float32)
        batch = tf.constant(np.maximum(rows, 0)), tf.constant(weight)
        return self._coordinator.schedule(self._scheduled, args=(self._data, *batch))


class _Watch:
    """Looks whether an epoch moves on. While one worker is gone, TensorFlow lets no other join again."""

    def __init__(self, cluster: Cluster, wait: float) -> None:
        self._cluster, self._wait = cluster, wait
        self._taken, self._moved = -1, time.monotonic()
        self._looked = self._moved

    def due(self) -> bool:
        """Whether it is time for a look."""
        return time.monotonic() - self._looked > LOOK

    def look(self, taken: int) -> None:
        """Raise WorkerLost where no step has been taken for too long, and a worker is missing."""
        self._looked = time.monotonic()
        if taken != self._taken:
            self._taken, self._moved = taken, self._looked
        elif self._looked - self._moved > self._wait:
            missing = absent(self._cluster.jobs["worker"])
            if missing:
                raise WorkerLost(f"no worker has taken a step for {self._wait:g} s, without {', '.join(missing)}")


def serve(cluster: Cluster) -> None:
    """Be the worker or parameter server that `cluster` says, until the chief says that it is over.

    Raises SettingsError where its own address cannot be had.
    """
    try:
        server = tf.distribute.Server(
            _resolver(cluster).cluster_spec(), job_name=cluster.job, task_index=cluster.index, protocol="grpc"
        )
    except tf.errors.OpError:
        raise SettingsError(
            f"{cluster.own}, this process's own address, cannot be had; is it running already?"
        ) from None

    def wait() -> None:
        with tf.Graph().as_default():
            said = _over(cluster.job, cluster.index).dequeue()
            with _session(server.target, cluster.job, cluster.index) as session:
                session.run(said)

    waiting = Thread(target=wait, daemon=True)  # a thread of its own, for the first one to hear Ctrl-C
    waiting.start()
    waiting.join()


def dismiss(cluster: Cluster) -> None:
    """Tell all workers and parameter servers that it is over; those that are not there are left alone."""
    for job in ("worker", "ps"):
        for index, address in enumerate(cluster.jobs[job]):
            if absent([address]):
                continue
            with suppress(tf.errors.OpError), tf.Graph().as_default():
                say = _over(job, index).enqueue(True)
                with _session(f"grpc://{address}", job, index, LAST_WORD) as session:
                    session.run(say)


def _session(target: str, job: str, index: int, milliseconds: int = 0) -> Any:
    """A session with one server alone; TensorFlow would otherwise wait until all others are there as well."""
    alone = tf.compat.v1.ConfigProto(device_filters=[f"/job:{job}/task:{index}"], operation_timeout_in_ms=milliseconds)
    return tf.compat.v1.Session(target, config=alone)


def _over(job: str, index: int) -> Any:
    """The queue on a server that holds the chief's last word."""
    with tf.device(f"/job:{job}/task:{index}"):
        return tf.queue.FIFOQueue(1, tf.bool, shapes=[()], shared_name=OVER)


def _resolver(cluster: Cluster) -> Any:
    spec = tf.train.ClusterSpec({job: list(addresses) for job, addresses in cluster.jobs.items()})
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type=cluster.job, task_id=cluster.index, rpc_layer="grpc"
    )


@contextmanager
def _converted() -> Iterator[None]:
    """Raise WorkerLost where TensorFlow says that a parameter server has gone."""
    try:
        yield
    except LOST as error:
        raise WorkerLost(f"a parameter server was lost ({next(iter(error.message.splitlines()), '')[:200]})") from None


def _words(cluster: Cluster) -> str:
    workers, servers = (len(cluster.jobs[job]) for job in ("worker", "ps"))
    said = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in ((workers, "worker"), (servers, "server"))]
    return f"ParameterServerStrategy, {', '.join(said)}"
