"""Central training from a model to a device program: compile it, train it under a strategy, compile what came of it.

Compiling first says in seconds what would otherwise be said after hours: that no device could run the model, or that
the data does not fit it. TensorFlow is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.cloud.evaluate import fits
from fedfleet.cloud.replicas import devices, mirrored
from fedfleet.cloud.training.job import Job, Trained
from fedfleet.cloud.training.steps import built
from fedfleet.models import compiler
from fedfleet.models.compiled import Compiled, arranged
from fedfleet.wire.examples import Examples


@dataclass(frozen=True)
class Target:
    """The device program that is wanted: see `compiler.compile`; `batch` is that of a device."""

    loss: str
    batch: int = 16
    local: Sequence[str] = ()
    frozen: str = "float32"

    def program(self, model: Any) -> Compiled:
        """Return the device program of `model`; raises ModelError."""
        return compiler.compile(model, self.loss, batch=self.batch, local=self.local, frozen=self.frozen)


def strategy(name: str, replicas: int) -> Any:
    """Return the `tf.distribute` strategy of `name`: one, mirrored over `replicas`, or workers; 0 replicas for all.

    That of workers returns when all of TF_CONFIG's are there. Raises SettingsError.
    """
    if name == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return mirrored(replicas) if name == "mirrored" else tf.distribute.OneDeviceStrategy(devices(1)[0])


def started(build: Callable[[], Any], start: Compiled) -> Any:
    """Return the model that `build` makes, with the weights of `start`; raises ModelError where they do not fit."""
    model = build()
    compiler.assign(model, start.layout, start.weights)
    return model


def prepared(job: Job, target: Target, *data: Examples) -> Compiled:
    """Return the program as it is before training; raises ModelError, and DataError where `data` does not fit it."""
    compiled = target.program(built(job))
    for examples in data:
        fits(compiled, examples)
    return compiled


def finished(job: Job, target: Target, before: Compiled, trained: Trained) -> Compiled:
    """Return the program with the weights that training brought.

    It is the one from `before`, but where weights have changed that no device trains, as BatchNormalization has them.
    """
    model = built(job)
    still = [np.asarray(each) for each in model.non_trainable_weights]
    model.set_weights(list(trained.weights))
    if all(np.array_equal(a, b) for a, b in zip(still, model.non_trainable_weights)):
        return before.with_weights(arranged(compiler.flatten(model), before.layout))
    return target.program(model)
