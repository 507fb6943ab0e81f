"""Frozen kernels as int8 with one float32 scale a channel: a quarter of the bytes, unpacked by the runtime.

The kernels are rounded in Keras, before the model is traced (`rounded`), so that what the device computes can be held
against Keras; in the finished file, every constant that such a rounding explains without loss is stored as int8 with a
DEQUANTIZE in front (`packed`). The runtimes unpack constants once, not in every step.
Symmetric, per channel, as Jacob et al. 2018 (arXiv 1712.05877, section 3) and the LiteRT quantization spec have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models.slim import pack
from fedfleet.wire.errors import ModelError

LEAST = 1024  # elements; below, scales and the op cost what the bytes save
LEVELS = 127.0
FORMS = ("float32", "int8")
DEQUANTIZE = schema.BuiltinOperator.DEQUANTIZE
PER_CHANNEL = 5  # the version of DEQUANTIZE that knows it
Array = npt.NDArray[Any]


class Levels(NamedTuple):
    """A tensor as int8 levels times one scale for each index of `axis`."""

    levels: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    axis: int


@contextmanager
def rounded(model: Any, form: str) -> Iterator[None]:
    """The model's frozen kernels hold what `form` keeps of them while the block lasts; then they are its own again."""
    if form not in FORMS:
        raise ModelError(f"unknown form {form!r} of frozen weights; use {' or '.join(FORMS)}")
    kernels = [weight for weight in model.non_trainable_weights if len(weight.shape) > 1] if form == "int8" else []
    own = [(weight, np.asarray(weight)) for weight in kernels if np.prod(weight.shape) >= LEAST]
    try:
        for weight, values in own:
            # a depthwise kernel [h,w,C,1] has its channels last but one
            weight.assign(_values(_levels(values, values.ndim - (1 if values.shape[-1] > 1 else 2))))
        yield
    finally:
        for weight, values in own:
            weight.assign(values)


def packed(program: bytes) -> bytes:
    """The program with every constant that is levels times scales stored as such."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    stored: dict[int, tuple[int, _Scales] | None] = {}
    for graph in model.subgraphs:
        unpack = []
        for i, tensor in enumerate(list(graph.tensors)):
            if tensor.buffer not in stored:
                stored[tensor.buffer] = _store(model, tensor)
            if (found := stored[tensor.buffer]) is not None:
                graph.tensors.append(_small(tensor, *found))
                tensor.buffer = 0
                unpack.append(_dequantize(model, len(graph.tensors) - 1, i))
        graph.operators = [*unpack, *(graph.operators or [])]
    for buffer in (i for i, found in stored.items() if found is not None):
        model.buffers[buffer].data = None
    return pack(model)


class _Scales(schema.QuantizationParametersT):  # type: ignore[misc]
    """Scales that are written once, however many subgraphs name them."""

    written: int | None = None

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the generated code's name
        if self.written is None:
            self.written = int(super().Pack(builder))
        return self.written


def _levels(values: Array, axis: int) -> Levels:
    """The nearest levels, the largest of each channel being 127."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(others)
    scales = (np.where(largest > 0, largest, 1.0) / LEVELS).astype(np.float32)
    return Levels(np.rint(values / _along(scales, axis, values.ndim)).astype(np.int8), scales, axis)


def _along(scales: Array, axis: int, rank: int) -> Array:
    return scales.reshape([-1 if i == axis else 1 for i in range(rank)])


def _values(found: Levels) -> npt.NDArray[np.float32]:
    return found.levels.astype(np.float32) * _along(found.scales, found.axis, found.levels.ndim)


def _explained(values: Array) -> Levels | None:
    """The tensor as levels, along whichever axis that loses nothing but a float's last bits; None if there is none."""
    for axis in range(values.ndim):
        if values.shape[axis] * 8 > values.size:
            continue
        found = _levels(values, axis)
        if np.allclose(_values(found), values, rtol=1e-6, atol=0):
            return found
    return None


def _store(model: Any, tensor: Any) -> tuple[int, _Scales] | None:
    """The buffer and the scales of a constant in its small form; None for what has none."""
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None or len(data) < 4 * LEAST:
        return None
    found = _explained(np.frombuffer(bytes(data), "<f4").reshape(tensor.shape))
    if found is None:
        return None
    buffer, scales = schema.BufferT(), _Scales()
    buffer.data = found.levels.tobytes()
    model.buffers.append(buffer)
    scales.scale, scales.zeroPoint = found.scales, np.zeros(found.scales.size, np.int64)
    scales.quantizedDimension = found.axis
    return len(model.buffers) - 1, scales


def _small(tensor: Any, buffer: int, scales: _Scales) -> Any:
    """The int8 tensor that `tensor` is unpacked from."""
    small = schema.TensorT()
    small.shape, small.type, small.buffer = tensor.shape, schema.TensorType.INT8, buffer
    small.name, small.quantization = (tensor.name or b"") + b"/int8", scales
    small.hasRank = tensor.hasRank
    return small


def _dequantize(model: Any, source: int, target: int) -> Any:
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    if DEQUANTIZE not in codes:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = DEQUANTIZE, DEQUANTIZE, PER_CHANNEL
        model.operatorCodes.append(code)
        codes.append(DEQUANTIZE)
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = codes.index(DEQUANTIZE), [source], [target]
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.DequantizeOptions, schema.DequantizeOptionsT()
    return op
