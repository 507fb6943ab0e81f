"""One step of central training under any `tf.distribute` strategy, and the batches that its replicas take.

The loss is the devices' own (`fedfleet.models.losses`), and so is how the last batch counts: what it lacks is filled up
with rows of weight 0, so a step is along the mean over the examples that there are, however they lie on replicas.
TensorFlow is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from fedfleet.cloud.training.job import MOMENTUM, Job
from fedfleet.models.losses import LOSSES, Loss
from fedfleet.wire.errors import ModelError

Tensor = Any
AHEAD = 2  # batches made while a step computes


def built(job: Job) -> Any:
    """Return the job's model, with the same weights at every call, also where the user's own code names no seed."""
    tf.keras.utils.set_random_seed(job.seed)
    return job.build()


def loss_of(job: Job) -> Loss:
    """Return the loss that the job names; raises ModelError for one that devices do not have."""
    if job.loss not in LOSSES:
        raise ModelError(f"unknown loss {job.loss!r}; use {' or '.join(LOSSES)}")
    return LOSSES[job.loss]


def optimizer(job: Job) -> Any:
    """Return the job's Keras optimizer; call it in the scope of the strategy."""
    if job.optimizer == "adam":
        return tf.keras.optimizers.Adam(job.learning_rate)
    return tf.keras.optimizers.SGD(job.learning_rate, momentum=MOMENTUM if job.optimizer == "momentum" else 0.0)


def objective(model: Any, loss: Loss, batch: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return (x, y, weight) -> the part that these rows have in the mean loss of a batch of `batch` rows, a scalar.

    For the inside of a `tf.function`; the rows are as many as their shape says.
    """

    def part(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        output = model(x, training=True)
        # what goes into a last softmax or sigmoid counts, as in a device program
        inner = output.op.inputs[0] if loss.final and output.op.type == loss.final else output
        return tf.reduce_sum(loss.each(inner, y) * weight) / batch

    return part


def descent(model: Any, keras_optimizer: Any, part: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the step of one replica: the gradient of its part, summed over all replicas, moves the weights of all."""

    def step(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            value = part(x, y, weight)
        gradients = tape.gradient(value, model.trainable_variables)
        keras_optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return value

    return step


def tensors(job: Job) -> tuple[Tensor, Tensor]:
    """Return x and y where batches are made, in the memory of the host."""
    with tf.device("CPU"):
        return tf.constant(job.examples.x), tf.constant(job.examples.y)


def feed(
    job: Job, data: tuple[Tensor, Tensor], share: int, epoch: int, first: int = 0, pipeline: int = 0, pipelines: int = 1
) -> Any:
    """Return the tf.data.Dataset of one input pipeline: (x, y, weight) for replica after replica, `share` rows each.

    It holds the `pipeline`-th of `pipelines` equal parts of every batch of `epoch`, from step `first` (from 0) on, of
    what `tensors` returned.
    """

    def own(table: NDArray[Any]) -> NDArray[Any]:
        return table.reshape(len(table), pipelines, -1)[:, pipeline].reshape(-1, share)

    with tf.device("CPU"):
        indices = tf.data.Dataset.from_tensor_slices((own(job.rows(epoch)[first:]), own(job.weight[first:])))
        return indices.map(lambda row, w: (tf.gather(data[0], row), tf.gather(data[1], row), w)).prefetch(AHEAD)
