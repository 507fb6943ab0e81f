"""`python -m fedfleet.sim.tff.worker`: a learning process of TFF, and the devices' data as that of its clients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedfleet.cloud.algorithms import ALGORITHMS
from fedfleet.cloud.tff.aggregators import weighted
from fedfleet.cloud.tff.factory import factory
from fedfleet.cloud.tff.optimizers import optimizer
from fedfleet.cloud.tff.pipe import Array, Message
from fedfleet.cloud.tff.serving import serve
from fedfleet.edge.data import Batch, Store
from fedfleet.edge.local import batch_seed, labelled, planned
from fedfleet.models import compiled, compiler
from fedfleet.models.compiled import Compiled
from fedfleet.sim import datasets, program
from fedfleet.sim.tff.model import LABELS, Masked
from fedfleet.sim.tff.proximal import Proximal
from fedfleet.wire.errors import DataError, ModelError, ProgramError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Plan, Task
from fedfleet.wire.record import build

NOTHING = Blob.of(b"nothing")
MOST = 2_000_000_000  # bytes that go to TFF's worker at once


@dataclass
class Learner:
    """A process of TFF and its state, and what makes the batches of its clients."""

    process: Any
    state: Any
    compiled: Compiled
    plan: Plan
    seed: int
    devices: Path

    def round(self, header: dict[str, Any]) -> Message:
        """Train on all that are called: weights, the mean training loss, and the number of examples."""
        number, held = header["round"], {device: self._held(device) for device in header["called"]}
        clients = [self._client(number, device, parts) for device, parts in held.items()]
        output = self.process.next(self.state, clients)
        self.state, train = output.state, output.metrics["client_work"]["train"]
        if lost := int(train["lost"]):
            raise ProgramError(
                f"training diverged in round {number}: {lost} weights are not finite; lower the learning rate"
            )
        examples = sum(len(part.y) for parts in held.values() for part in parts)
        return {"loss": float(train["loss"]), "examples": examples}, [self._weights()]

    def _held(self, device: str) -> list[Examples]:
        """What a device holds, as its trainer sees it."""
        records = Store.open(self.devices / device / "state" / "examples").records()
        return [Examples(part["x"], part["y"]) for part in records]

    def _client(self, number: int, device: str, parts: list[Examples]) -> Any:
        """The very batches of a device in a round, in their order, as a data set of TFF."""
        total, size = sum(len(part.y) for part in parts), self.compiled.batch
        count = self.plan.steps or self.plan.epochs * -(-total // size)
        if (wanted := count * size * (parts[0].x[0].nbytes + parts[0].y[0].nbytes)) > MOST:
            raise DataError(f"{device} has {wanted} bytes of batches in a round, more than {MOST}: ask for fewer steps")
        seed = batch_seed(Task(number, NOTHING, NOTHING, self.plan, seed=self.seed), device)
        classes = self.compiled.output_shape[-1] if self.compiled.loss == LABELS else None
        drawn = planned(parts, np.arange(total), size, self.plan, seed)
        return tf.data.Dataset.from_tensor_slices(stacked(labelled(drawn, classes), seed, total))

    def _weights(self) -> Array:
        trainable = self.process.get_model_weights(self.state).trainable
        flat = [np.asarray(trainable[entry.place], np.float32).reshape(-1) for entry in self.compiled.layout]
        return np.concatenate(flat)


def learning_process(model_fn: Any, plan: Plan, header: dict[str, Any]) -> Any:
    """Return TFF's process of the plan's clients, the rule, and the server's optimizer."""
    client = tff.learning.optimizers.build_sgdm(plan.learning_rate, plan.momentum)
    if plan.proximal:
        client = Proximal(client, plan.proximal)
    name, _, rate = header["algorithm"].partition(":")
    server = optimizer(name, float(rate) if rate else ALGORITHMS[name].number)
    rule = header["rule"].removeprefix("tff:")
    combined = weighted(factory(rule)) if rule else None
    return tff.learning.algorithms.build_weighted_fed_avg(model_fn, client, server, model_aggregator=combined)


def stacked(drawn: Iterator[Batch], seed: int, total: int) -> OrderedDict[str, Array]:
    """Return all batches of a client in one, and their seeds; the first one counts all of its examples."""
    found = list(drawn)
    return OrderedDict(
        x=np.stack([batch.x for batch in found]),
        y=np.stack([batch.y for batch in found]),
        weight=np.stack([batch.weight for batch in found]),
        seed=np.array([[(seed + step) % 2**31] for step in range(len(found))], np.int32),
        count=np.array([total, *[0] * (len(found) - 1)], np.int64),
    )


def keras_model(header: dict[str, Any], wanted: Compiled) -> Any:
    """The Keras model of the run, built here once more, with the weights that the run begins with."""
    kind = header["data"].partition(":")[0]
    model = program.build(datasets.load(header["data"], header["seed"]), kind, header["model"], header["seed"])
    same = np.array_equal(compiled.arranged(compiler.flatten(model), wanted.layout), wanted.weights)
    if model.non_trainable_weights and not same:
        raise ModelError("the model comes out differently each time it is built, its frozen layers too: seed them")
    compiler.assign(model, wanted.layout, wanted.weights)
    return model


def begun(header: dict[str, Any]) -> Learner:
    """Return what learns as `header` says; raises ModelError where the model cannot be built twice the same."""
    wanted, plan = compiled.load(header["compiled"]), build(Plan, header["plan"], strict=True)
    model = keras_model(header, wanted)
    process = learning_process(partial(Masked, model, wanted), plan, header)
    trainable, frozen = (
        [each.numpy() for each in some] for some in (model.trainable_weights, model.non_trainable_weights)
    )
    weights = tff.learning.models.ModelWeights(trainable, frozen)
    state = process.set_model_weights(process.initialize(), weights)
    return Learner(process, state, wanted, plan, header["seed"], Path(header["devices"]))


def main() -> None:
    """Learn for whoever asks, one run after the other."""
    running: list[Learner] = []

    def begin(header: dict[str, Any], arrays: list[Array]) -> Message:
        running[:] = [begun(header)]
        return {}, []

    serve({"begin": begin, "round": lambda header, arrays: running[0].round(header)})


if __name__ == "__main__":
    main()
