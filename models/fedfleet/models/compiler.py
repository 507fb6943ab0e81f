"""A Keras model in, a device program out; and flat weights back into a Keras model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from fedfleet.models.compiled import MAX_PARAMETERS, Compiled, Entry, Weights
from fedfleet.models.losses import LOSSES, Loss
from fedfleet.models.noise import dropouts
from fedfleet.models.ops import check
from fedfleet.models.program import Source, convert, emit
from fedfleet.models.rewrite import simplify
from fedfleet.models.trace import Trace, trace
from fedfleet.wire.errors import ModelError

MAX_BATCH = 4096


def compile(model: Any, loss: str, *, batch: int = 16) -> Compiled:  # noqa: A001 - the word of the trade
    """The device program of a Keras model, with the weights it has now; ModelError names what prevents one."""
    chosen = _loss(loss)
    if not 1 <= batch <= MAX_BATCH:
        raise ModelError(f"batch {batch} is out of range; use 1 to {MAX_BATCH}")
    inside, outside = _shapes(model)
    layout = _layout(model)
    if (refusal := chosen.refusal(outside)) is not None:
        raise ModelError(f"loss {loss} {refusal}")
    traces = [_forward(model, size) for size in (batch, 1)]
    training = _forward(model, batch, dropping=True) if dropouts(model) else traces[0]
    source = Source(traces[0], traces[1], layout, chosen, batch, inside, outside, training)
    return Compiled(emit(source), flatten(model), layout, loss, batch, inside, outside)


def flatten(model: Any) -> Weights:
    """The model's trainable weights as one vector, in `model.trainable_weights` order."""
    return np.concatenate([np.asarray(w, np.float32).reshape(-1) for w in model.trainable_weights])


def assign(model: Any, layout: Sequence[Entry], weights: Weights) -> None:
    """Writes a flat vector into the trainable weights of a model with this layout; nothing is written on error."""
    shapes = [tuple(w.shape) for w in model.trainable_weights]
    if [e.shape for e in layout] != shapes:
        raise ModelError("the layout is not the model's: their trainable weights differ in number or shape")
    if weights.shape != (sum(e.size for e in layout),):
        raise ModelError(f"weights of shape {list(weights.shape)} do not fit a layout of {sum(e.size for e in layout)}")
    for variable, e in zip(model.trainable_weights, layout):
        variable.assign(weights[e.offset : e.offset + e.size].reshape(e.shape))


def export_infer(model: Any) -> bytes:
    """An ordinary inference .tflite of one example at a time, weights inside: what a device without training runs."""
    inside, _ = _shapes(model)
    spec = tf.TensorSpec([1, *inside], tf.float32, "x")
    forward = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    # frozen by hand: TensorFlow 2.21's converter leaves the weights out, and the device would read nonsense
    frozen = convert_variables_to_constants_v2(forward)
    named = tf.function(lambda x: {"output": frozen(x)[0]}, autograph=False).get_concrete_function(spec)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures={"infer": named})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["infer"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return convert(converter)


def _loss(name: str) -> Loss:
    if name not in LOSSES:
        raise ModelError(f"unknown loss {name!r}; use {' or '.join(LOSSES)}")
    return LOSSES[name]


def _forward(model: Any, batch: int, dropping: bool = False) -> Trace:
    traced = trace(model, batch, dropping)
    check(traced)
    return simplify(traced)


def _shapes(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output shape without the batch."""
    if not isinstance(model, tf.keras.Model):
        raise ModelError(f"{type(model).__name__} is not a Keras model; pass a Sequential or functional keras.Model")
    if not getattr(model, "inputs", None):
        raise ModelError(f"model {model.name!r} has no input shape; put keras.Input(shape) in front")
    for side, tensors in (("input", model.inputs), ("output", model.outputs)):
        if len(tensors) != 1:
            raise ModelError(f"model {model.name!r} has {len(tensors)} {side}s; a device program takes exactly one")
        if None in tuple(tensors[0].shape)[1:]:
            raise ModelError(f"{side} shape {list(tensors[0].shape)} has a dimension of unknown size; give every size")
        known = (tf.float32, tf.int32) if side == "input" else (tf.float32,)
        if (dtype := tf.as_dtype(tensors[0].dtype)) not in known:
            kinds = " or ".join(kind.name for kind in known)
            raise ModelError(f"{side} of {dtype.name}; a device program takes {kinds} only")
    return tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])


def _layout(model: Any) -> tuple[Entry, ...]:
    """Where each trainable weight lies in the flat vector."""
    entries: list[Entry] = []
    offset = 0
    for weight in model.trainable_weights:
        name = getattr(weight, "path", weight.name).removesuffix(":0")
        if tf.as_dtype(weight.dtype) != tf.float32:
            raise ModelError(f"weight {name} is {tf.as_dtype(weight.dtype).name}; build the model in float32")
        size = int(np.prod(weight.shape, dtype=np.int64))
        entries.append(Entry(name, tuple(weight.shape), offset, size))
        offset += size
    if not entries:
        raise ModelError(f"model {model.name!r} has nothing to train; set trainable=True on a layer that has weights")
    if offset > MAX_PARAMETERS:
        raise ModelError(f"model {model.name!r} has {offset} parameters, more than {MAX_PARAMETERS}; make it smaller")
    return tuple(entries)
