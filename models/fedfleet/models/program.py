"""The device program: its signatures over one flat weight vector, as the bytes of a .tflite file.

set(weights) -> ok                      the weights, also the proximal anchor; all other state starts anew
correct(correction) -> ok               a term that `adapt` adds to every gradient until the next `set`, as in SCAFFOLD
get() -> weights                        bit for bit what was set or trained
train(x, y, weight, learning_rate, momentum) -> loss    one step of SGD with momentum; the loss is the one before it
adapt(learning_rate, momentum, nesterov, second_moment, weight_decay, proximal, clip_norm) -> ok
                                        one step by the whole rule of optimiser.py, after a `train` with both scalars 0
evaluate(x, y, weight) -> loss, metric, count        sums over the batch
infer(x) -> output                      one example
local() -> weights                      what local layers start from: the last of all weights

The last one is there only where layers are local: their weights end the vector and no `set` from outside brings them.
A model with dropout takes a `seed` int32 [1] from 0 in `train` too.

Every scalar has shape [1]: rank-0 inputs crash LiteRT on emulated aarch64. Rows with weight 0 are padding.
The file holds no others: before the first `set` all other signatures give an error or nonsense.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.lite.python.convert import ConverterError

from fedfleet.models.compiled import Entry, Weights
from fedfleet.models.inplace import safe
from fedfleet.models.losses import Loss
from fedfleet.models.ops import replay
from fedfleet.models.optimiser import State, adapt, descend, join
from fedfleet.models.slim import without_initial_values
from fedfleet.models.trace import SEED, Trace
from fedfleet.wire.errors import ModelError
from fedfleet.wire.messages import SCALARS, SGD

Tensor = Any
SIGNATURES = ("set", "correct", "get", "train", "adapt", "evaluate", "infer")
LOCAL = "local"


@dataclass(frozen=True)
class Source:
    """All a program is made from: the forward pass for a batch and for one example, weights, their layout and loss."""

    batch: Trace
    single: Trace
    layout: tuple[Entry, ...]
    loss: Loss
    size: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    training: Trace
    weights: Weights

    @property
    def seeded(self) -> bool:
        """Whether a training step drops anything, and needs a seed for it."""
        return any(SEED in node.inputs for node in self.training.nodes)

    @property
    def signatures(self) -> tuple[str, ...]:
        """What the program offers."""
        return SIGNATURES if all(entry.shared for entry in self.layout) else (*SIGNATURES, LOCAL)


class Program(tf.Module):  # type: ignore[misc]
    """The state of a device program, with its signatures as methods."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.state = State(source.layout)

    def set(self, weights: Tensor) -> dict[str, Tensor]:
        """Starts a round from `weights`."""
        self.state.set(weights)
        return {"ok": tf.ones([1])}

    def correct(self, correction: Tensor) -> dict[str, Tensor]:
        """Adds `correction` to every gradient of the round."""
        self.state.correct(correction)
        return {"ok": tf.ones([1])}

    def get(self) -> dict[str, Tensor]:
        """The weights as they are."""
        return {"weights": join(self.state.read())}

    def train(
        self, x: Tensor, y: Tensor, weight: Tensor, learning_rate: Tensor, momentum: Tensor, seed: Tensor = None
    ) -> dict[str, Tensor]:
        """One step of SGD with momentum; the loss is the one before it."""
        parts = self.state.read()
        with tf.GradientTape() as tape:
            tape.watch(parts)
            each = self.source.loss.each(self._outcome(self.source.training, x, parts, seed), y)
            loss = tf.reduce_sum(each * weight, keepdims=True) / tf.maximum(tf.reduce_sum(weight, keepdims=True), 1.0)
        gradients = tape.gradient(loss, parts, unconnected_gradients="zero")
        descend(self.state, parts, gradients, learning_rate, momentum)
        return {"loss": loss}

    def adapt(self, **plan: Tensor) -> dict[str, Tensor]:
        """One step by the whole rule, on the gradient that `train` has left."""
        adapt(self.state, plan)
        return {"ok": tf.ones([1])}

    def evaluate(self, x: Tensor, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Sums over the batch, each example counted by its weight."""
        output = self._outcome(self.source.batch, x, self.state.read())
        loss, metric = self.source.loss.each(output, y), self.source.loss.score(output, y)
        sums = {"loss": loss * weight, "metric": metric * weight, "count": weight}
        return {name: tf.reduce_sum(value, keepdims=True) for name, value in sums.items()}

    def infer(self, x: Tensor) -> dict[str, Tensor]:
        """The model's own output for one example."""
        trace = self.source.single
        return {"output": replay(trace, x, self.state.read())[trace.output]}

    def local(self) -> dict[str, Tensor]:
        """What the local layers start from on every device."""
        start = next(entry.offset for entry in self.source.layout if not entry.shared)
        return {"weights": tf.constant(self.source.weights[start:])}

    def _outcome(self, trace: Trace, x: Tensor, parts: Sequence[Tensor], seed: Tensor = None) -> Tensor:
        """What the loss looks at: the output, or its logits."""
        return replay(trace, x, parts, seed)[counted(trace, self.source.loss)]


def counted(trace: Trace, loss: Loss) -> str:
    """The tensor that the loss looks at: the output, or the logits where their probabilities end the model."""
    last = {name: node for node in trace.nodes for name in node.outputs}.get(trace.output)
    return last.inputs[0] if last is not None and last.op == loss.final else trace.output


def emit(source: Source) -> bytes:
    """The program's file; ModelError if the converter refuses it."""
    program = Program(source)
    signatures = {name: function.get_concrete_function(**specs) for name, function, specs in _functions(program)}
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(program, folder, signatures=signatures, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(source.signatures))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        return safe(without_initial_values(convert(converter)))


def convert(converter: Any) -> bytes:
    """The converter's bytes, its errors turned into a ModelError of one line."""
    try:
        return bytes(converter.convert())
    except ConverterError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ModelError(
            f"the LiteRT converter refuses the model: {reason[:300]}; replace the layer it names"
        ) from error


def _functions(program: Program) -> list[tuple[str, Any, dict[str, Any]]]:
    """Name, tf.function and argument specs of every signature."""
    source = program.source

    def specs(**shapes: tuple[int, ...]) -> dict[str, Any]:
        return {name: tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()}

    rows, count = source.size, sum(entry.size for entry in source.layout)
    target = tf.TensorSpec([rows, *source.loss.target(source.output_shape)], source.loss.dtype, "y")
    examples = {**specs(x=(rows, *source.input_shape)), "y": target, **specs(weight=(rows,))}
    seed = {"seed": tf.TensorSpec([1], tf.int32, "seed")} if source.seeded else {}
    arguments = {
        "set": specs(weights=(count,)),
        "correct": specs(correction=(count,)),
        "get": {},
        "train": {**examples, **specs(**dict.fromkeys(SGD, (1,))), **seed},
        "adapt": specs(**dict.fromkeys(SCALARS, (1,))),
        "evaluate": examples,
        "infer": specs(x=(1, *source.input_shape)),
        LOCAL: {},
    }
    return [(name, tf.function(getattr(program, name), autograph=False), arguments[name]) for name in source.signatures]
