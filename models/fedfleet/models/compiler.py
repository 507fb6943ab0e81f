"""A Keras model in, a device program out; and flat weights back into a Keras model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from fedfleet.models import extras
from fedfleet.models.compiled import Compiled, Entry, Weights, arranged
from fedfleet.models.int8 import packed, rounded
from fedfleet.models.layout import layout
from fedfleet.models.losses import LOSSES, Loss
from fedfleet.models.noise import dropouts
from fedfleet.models.ops import check
from fedfleet.models.program import Source, convert, emit
from fedfleet.models.rewrite import simplify
from fedfleet.models.trace import Trace, trace
from fedfleet.wire.errors import ModelError
from fedfleet.wire.messages import MAX_BLOB

MAX_BATCH = 4096


def compile(  # noqa: A001 - the word of the trade
    model: Any, loss: str, *, batch: int = 16, local: Sequence[str] = (), frozen: str = "float32"
) -> Compiled:
    """The device program of a Keras model, with the weights it has now; ModelError names what prevents one.

    The layers named in `local` train on each device for itself and never leave it. With `frozen` "int8", the large
    kernels of layers that do not train are rounded to int8, and the program is smaller by three quarters of them.
    """
    chosen = _loss(loss)
    if not 1 <= batch <= MAX_BATCH:
        raise ModelError(f"batch {batch} is out of range; use 1 to {MAX_BATCH}")
    inside, outside = shapes(model)
    places = layout(model, local)
    if (refusal := chosen.refusal(outside)) is not None:
        raise ModelError(f"loss {loss} {refusal}")
    _finite(model)
    with rounded(model, frozen):
        traces = [forward(model, size, places) for size in (batch, 1)]
        training = forward(model, batch, places, dropping=True) if dropouts(model) else traces[0]
    extras.refuse(model)
    _affordable(sum(values.nbytes for values in _constants(traces[0]).values()))
    weights = arranged(flatten(model), places)
    source = Source(traces[0], traces[1], places, chosen, batch, inside, outside, training, weights)
    program = packed(emit(source)) if frozen == "int8" else emit(source)
    _affordable(len(program))
    return Compiled(program, weights, places, loss, batch, inside, outside, frozen)


def flatten(model: Any) -> Weights:
    """The model's trainable weights as one vector, in Keras's order; `arranged` brings it into a layout's."""
    return np.concatenate([np.asarray(w, np.float32).reshape(-1) for w in model.trainable_weights])


def assign(model: Any, layout: Sequence[Entry], weights: Weights) -> None:
    """Writes a flat vector into the trainable weights of a model with this layout; nothing is written on error."""
    variables = model.trainable_weights
    wanted = sorted((e.place, e.shape) for e in layout)
    if wanted != [(place, tuple(variable.shape)) for place, variable in enumerate(variables)]:
        raise ModelError("the layout is not the model's: their trainable weights differ in number or shape")
    if weights.shape != (sum(e.size for e in layout),):
        raise ModelError(f"weights of shape {list(weights.shape)} do not fit a layout of {sum(e.size for e in layout)}")
    for e in layout:
        variables[e.place].assign(weights[e.offset : e.offset + e.size].reshape(e.shape))


def export_infer(model: Any, frozen: str = "float32") -> bytes:
    """An ordinary inference .tflite of one example at a time, weights inside: what a device without training runs.

    `frozen` is as in `compile`: a head that was trained on rounded kernels wants them here too.
    """
    with rounded(model, frozen):
        program = _inference(model)
    return packed(program) if frozen == "int8" else program


def _inference(model: Any) -> bytes:
    inside, _ = shapes(model)
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


def forward(model: Any, batch: int, places: Sequence[Entry], dropping: bool = False) -> Trace:
    """The forward pass of a whole batch, its trainable weights numbered as they lie in the flat vector; ModelError."""
    traced = trace(model, batch, dropping)
    check(traced)
    number = {entry.place: i for i, entry in enumerate(places)}
    return simplify(replace(traced, trainable={name: number[i] for name, i in traced.trainable.items()}))


def _constants(trace: Trace) -> Mapping[str, npt.NDArray[Any]]:
    """What the program will hold of constants."""
    return {name: trace.constants[name] for node in trace.nodes for name in node.inputs if name in trace.constants}


def _affordable(size: int) -> None:
    if size > MAX_BLOB:
        raise ModelError(f"the program would have {size} bytes, more than the {MAX_BLOB} that travel; make it smaller")


def _finite(model: Any) -> None:
    for weight in model.weights:
        if tf.as_dtype(weight.dtype).is_floating and not np.isfinite(np.asarray(weight)).all():
            name = getattr(weight, "path", weight.name).removesuffix(":0")
            raise ModelError(f"weight {name} holds numbers that are not finite; train it again at a lower rate")


def shapes(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output shape without the batch; ModelError for a model that is no graph from one to one tensor."""
    if not isinstance(model, tf.keras.Model):
        raise ModelError(f"{type(model).__name__} is not a Keras model; pass a Sequential or functional keras.Model")
    if not getattr(model, "inputs", None):
        if isinstance(model, tf.keras.Sequential):
            raise ModelError(f"model {model.name!r} has no input shape; put keras.Input(shape) in front")
        raise ModelError(
            f"model {model.name!r} is a subclass without a graph of layers; "
            "wrap it: x = keras.Input(shape), keras.Model(x, model(x))"
        )
    for side, tensors in (("input", model.inputs), ("output", model.outputs)):
        if len(tensors) != 1:
            raise ModelError(f"model {model.name!r} has {len(tensors)} {side}s; a device program takes exactly one")
        if (kind := _uneven(tensors[0])) is not None:
            raise ModelError(f"{side} is {kind}; a device program takes dense tensors only")
        if None in tuple(tensors[0].shape)[1:]:
            raise ModelError(f"{side} shape {list(tensors[0].shape)} has a dimension of unknown size; give every size")
        known = (tf.float32, tf.int32) if side == "input" else (tf.float32,)
        if (dtype := tf.as_dtype(tensors[0].dtype)) not in known:
            kinds = " or ".join(kind.name for kind in known)
            raise ModelError(f"{side} of {dtype.name}; a device program takes {kinds} only")
    return tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])


def _uneven(tensor: Any) -> str | None:
    """`sparse` or `ragged`, if the Keras tensor is either."""
    spec = getattr(tensor, "type_spec", None)  # of Keras 2; Keras 3 has flags
    if getattr(tensor, "sparse", False) or isinstance(spec, tf.SparseTensorSpec):
        return "sparse"
    return "ragged" if getattr(tensor, "ragged", False) or isinstance(spec, tf.RaggedTensorSpec) else None
