"""The device program: its signatures over one flat weight vector, as the bytes of a .tflite file.

set(weights) -> ok                                      the weights, also the proximal anchor; momentum becomes zero
get() -> weights                                        bit for bit what was set or trained
train(x, y, weight, learning_rate, momentum, proximal, clip_norm) -> loss        one step of SGD
evaluate(x, y, weight) -> loss, metric, count           sums over the batch
infer(x) -> output                                      one example
local() -> weights                                      what local layers start from: the last of all weights

The last one is there only where layers are local: their weights end the vector and no `set` from outside brings them.

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
from fedfleet.models.losses import Loss
from fedfleet.models.ops import replay
from fedfleet.models.slim import without_initial_values
from fedfleet.models.trace import Trace
from fedfleet.wire.errors import ModelError

Tensor = Any
SIGNATURES = ("set", "get", "train", "evaluate", "infer")
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
    weights: Weights

    @property
    def signatures(self) -> tuple[str, ...]:
        """What the program offers."""
        return SIGNATURES if all(entry.shared for entry in self.layout) else (*SIGNATURES, LOCAL)


class Program(tf.Module):  # type: ignore[misc]
    """The state of a device program, with its signatures as methods."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        count = sum(entry.size for entry in source.layout)
        self.weights, self.anchor, self.momentum = (tf.Variable(tf.zeros([count])) for _ in range(3))

    def set(self, weights: Tensor) -> dict[str, Tensor]:
        """Starts a round from `weights`."""
        self.weights.assign(weights)
        self.anchor.assign(weights)
        # zeros computed from the argument: as a constant they would make the file as large as the weights
        self.momentum.assign(tf.minimum(tf.abs(weights), 0.0))
        return {"ok": tf.ones([1])}

    def get(self) -> dict[str, Tensor]:
        """The weights as they are."""
        return {"weights": self.weights.read_value()}

    def train(
        self,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        learning_rate: Tensor,
        momentum: Tensor,
        proximal: Tensor,
        clip_norm: Tensor,
    ) -> dict[str, Tensor]:
        """One step; the loss is the one before it."""
        weights = self.weights.read_value()
        parts = split(weights, self.source.layout)
        with tf.GradientTape() as tape:
            tape.watch(parts)
            each = self.source.loss.each(self._outcome(x, parts), y)
            loss = tf.reduce_sum(each * weight, keepdims=True) / tf.maximum(tf.reduce_sum(weight, keepdims=True), 1.0)
        gradient = join(tape.gradient(loss, parts, unconnected_gradients="zero"))
        gradient += proximal * (weights - self.anchor.read_value())
        step = momentum * self.momentum.read_value() + gradient * clip(gradient, clip_norm)
        self.momentum.assign(step)
        self.weights.assign(weights - learning_rate * step)
        return {"loss": loss}

    def evaluate(self, x: Tensor, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Sums over the batch, each example counted by its weight."""
        output = self._outcome(x, split(self.weights.read_value(), self.source.layout))
        loss, metric = self.source.loss.each(output, y), self.source.loss.score(output, y)
        sums = {"loss": loss * weight, "metric": metric * weight, "count": weight}
        return {name: tf.reduce_sum(value, keepdims=True) for name, value in sums.items()}

    def infer(self, x: Tensor) -> dict[str, Tensor]:
        """The model's own output for one example."""
        trace = self.source.single
        parts = split(self.weights.read_value(), self.source.layout)
        return {"output": replay(trace, x, parts)[trace.output]}

    def local(self) -> dict[str, Tensor]:
        """What the local layers start from on every device."""
        start = next(entry.offset for entry in self.source.layout if not entry.shared)
        return {"weights": tf.constant(self.source.weights[start:])}

    def _outcome(self, x: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """What the loss looks at: the output, or its logits."""
        trace = self.source.batch
        return replay(trace, x, parts)[counted(trace, self.source.loss)]


def counted(trace: Trace, loss: Loss) -> str:
    """The tensor that the loss looks at: the output, or the logits where their probabilities end the model."""
    last = {name: node for node in trace.nodes for name in node.outputs}.get(trace.output)
    return last.inputs[0] if last is not None and last.op == loss.final else trace.output


def split(weights: Tensor, layout: Sequence[Entry]) -> list[Tensor]:
    """The tensors inside the flat weights."""
    return [tf.reshape(weights[e.offset : e.offset + e.size], e.shape) for e in layout]


def join(tensors: Sequence[Tensor]) -> Tensor:
    """One flat vector of all tensors."""
    flat = [tf.reshape(t, [-1]) for t in tensors]
    return tf.concat(flat, 0) if len(flat) > 1 else flat[0]


def clip(gradient: Tensor, clip_norm: Tensor) -> Tensor:
    """The factor [1] that brings the gradient's norm down to `clip_norm`; 1 where that is 0."""
    norm = tf.sqrt(tf.reduce_sum(gradient * gradient, keepdims=True))
    bounded = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-30))
    on = tf.sign(tf.maximum(clip_norm, 0.0))
    return 1.0 - on + on * bounded


def emit(source: Source) -> bytes:
    """The program's file; ModelError if the converter refuses it."""
    program = Program(source)
    signatures = {name: function.get_concrete_function(*specs) for name, function, specs in _functions(program)}
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(program, folder, signatures=signatures, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(source.signatures))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        return without_initial_values(convert(converter))


def convert(converter: Any) -> bytes:
    """The converter's bytes, its errors turned into a ModelError of one line."""
    try:
        return bytes(converter.convert())
    except ConverterError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ModelError(
            f"the LiteRT converter refuses the model: {reason[:300]}; replace the layer it names"
        ) from error


def _functions(program: Program) -> list[tuple[str, Any, list[Any]]]:
    """Name, tf.function and argument specs of every signature."""
    source = program.source

    def spec(name: str, *shape: int, dtype: Any = tf.float32) -> Any:
        return tf.TensorSpec(shape, dtype, name)

    rows = source.size
    target = spec("y", rows, *source.loss.target(source.output_shape), dtype=source.loss.dtype)
    examples = [spec("x", rows, *source.input_shape), target, spec("weight", rows)]
    plan = [spec(name, 1) for name in ("learning_rate", "momentum", "proximal", "clip_norm")]
    arguments = {
        "set": [spec("weights", program.weights.shape[0])],
        "get": [],
        "train": [*examples, *plan],
        "evaluate": examples,
        "infer": [spec("x", 1, *source.input_shape)],
        LOCAL: [],
    }
    return [(name, tf.function(getattr(program, name), autograph=False), arguments[name]) for name in source.signatures]
