"""A Keras model as TFF trains it: on padded batches with masks, as the device program of the same model does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedfleet.models.compiled import Compiled
from fedfleet.models.dropout import mask
from fedfleet.models.noise import Drop, dropouts, replaced

Tensor = Any
LABELS = "sparse_categorical_crossentropy"


class Masked(tff.learning.models.VariableModel):  # type: ignore[misc]
    """A copy of `model`, and the loss of `compiled` over the examples of a batch that are none of its padding.

    A batch has x, y, weight and seed as a device's step has them, and `count`, of which all batches of a client
    together have how many examples it holds.
    """

    def __init__(self, model: Any, compiled: Compiled) -> None:
        self._model = tf.keras.models.clone_model(model)
        self._compiled = compiled
        self._drops = bool(dropouts(self._model))
        self._loss, self._steps, self._examples = (
            tf.Variable(0.0, trainable=False, name=name) for name in ("loss", "steps", "examples")
        )

    @property
    def trainable_variables(self) -> Sequence[Any]:
        """The weights, in Keras's order."""
        return list(self._model.trainable_variables)

    @property
    def non_trainable_variables(self) -> Sequence[Any]:
        """What does not train."""
        return list(self._model.non_trainable_variables)

    @property
    def local_variables(self) -> Sequence[Any]:
        """What makes the metrics."""
        return [self._loss, self._steps, self._examples]

    @property
    def input_spec(self) -> OrderedDict[str, Any]:
        """What a batch is."""
        return batch_spec(self._compiled)

    def predict_on_batch(self, batch_input: Tensor, training: bool = True) -> Tensor:
        """The model's output; layers that know training from inference infer, as in a device program."""
        return self._model(batch_input, training=False)

    def forward_pass(self, batch_input: Any, training: bool = True) -> Any:
        """The mean loss over the examples that are no padding."""
        weight = batch_input["weight"]
        with replaced(self._model, _drop(batch_input["seed"])) if self._drops and training else nullcontext():
            output = self.predict_on_batch(batch_input["x"])
        each = _losses(self._compiled.loss, output, batch_input["y"])
        loss = tf.reduce_sum(each * weight) / tf.maximum(tf.reduce_sum(weight), 1.0)
        self._loss.assign_add(loss)
        self._steps.assign_add(1.0)
        self._examples.assign_add(tf.cast(batch_input["count"], tf.float32))
        return tff.learning.models.BatchOutput(loss=loss, predictions=output, num_examples=batch_input["count"])

    def report_local_unfinalized_metrics(self) -> OrderedDict[str, Any]:
        """The mean loss over all steps, as often as there are examples; and how many weights are no numbers."""
        mean = self._loss / tf.maximum(self._steps, 1.0)
        lost = [tf.reduce_sum(tf.cast(~tf.math.is_finite(each), tf.float32)) for each in self.trainable_variables]
        return OrderedDict(loss=[mean * self._examples, self._examples], lost=[tf.add_n(lost)])

    def metric_finalizers(self) -> OrderedDict[str, Any]:
        """The mean over all examples; the count of weights."""
        return OrderedDict(loss=tf.function(lambda sums: sums[0] / sums[1]), lost=tf.function(lambda sums: sums[0]))

    def reset_metrics(self) -> None:
        """Count from zero."""
        for variable in self.local_variables:
            variable.assign(0.0)


def batch_spec(compiled: Compiled) -> OrderedDict[str, Any]:
    """Return what a batch of `compiled` is to TFF."""
    labels = compiled.loss == LABELS
    target = tf.TensorSpec(
        [compiled.batch, *(() if labels else compiled.output_shape)], tf.int32 if labels else tf.float32
    )
    return OrderedDict(
        x=tf.TensorSpec([compiled.batch, *compiled.input_shape], tf.float32),
        y=target,
        weight=tf.TensorSpec([compiled.batch], tf.float32),
        seed=tf.TensorSpec([1], tf.int32),
        count=tf.TensorSpec([], tf.int64),
    )


def _losses(loss: str, output: Tensor, target: Tensor) -> Tensor:
    """TensorFlow's own loss by example; of probabilities that a softmax makes, what goes into that counts."""
    if loss == LABELS:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(target, _logits(output))
    flat = [tf.reshape(each, [each.shape[0], -1]) for each in (output, target)]
    return tf.reduce_mean(tf.math.squared_difference(*flat), 1)


def _logits(output: Tensor) -> Tensor:
    op = output.op
    while op.type == "Identity":
        op = op.inputs[0].op
    return op.inputs[0] if op.type == "Softmax" else output


def _drop(seed: Tensor) -> Any:
    """The masks of a device's step with that seed."""

    def drop(what: Drop, x: Tensor) -> Tensor:
        shape = [1 if axis in what.repeats else size for axis, size in enumerate(x.shape)]
        return x * tf.reshape(mask(seed, what.number, shape[0], int(np.prod(shape[1:])), what.rate), shape)

    return drop
