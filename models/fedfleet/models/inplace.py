"""Keeps a runtime from writing over a tensor that is still to be read.

LiteRT writes an elementwise op's output where its input lay, if nothing else reads that input, and lets a RESHAPE
share the memory of what it reshapes. Its planner (arena_planner.cc, IdentifyInPlaceTensors) asks how often the first
tensor in such a place is read, and forgets those in between: of z = x * a, y = reshape(z), w = y * b, u = z * c it
puts w where x and z lay, and u reads w. tflite-runtime 2.14 does so always, ai-edge-litert 2.3 where XNNPACK does not
enter.

An output of the graph is never put into another tensor's place, and nobody has to read it: so w becomes one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models.slim import pack

OPS = schema.BuiltinOperator
VIEWS = {OPS.RESHAPE, OPS.EXPAND_DIMS, OPS.SQUEEZE}
CHANGES = {
    OPS.ABS, OPS.ADD, OPS.ADD_N, OPS.CAST, OPS.COS, OPS.DIV, OPS.ELU, OPS.EXP, OPS.FLOOR, OPS.GELU, OPS.HARD_SWISH,
    OPS.LEAKY_RELU, OPS.LOG, OPS.LOGISTIC, OPS.LOG_SOFTMAX, OPS.MAXIMUM, OPS.MINIMUM, OPS.MUL, OPS.NEG, OPS.POW,
    OPS.PRELU, OPS.RELU, OPS.RELU6, OPS.RELU_N1_TO_1, OPS.RSQRT, OPS.SIGN, OPS.SIN, OPS.SOFTMAX, OPS.SQRT, OPS.SQUARE,
    OPS.SQUARED_DIFFERENCE, OPS.SUB, OPS.TANH, OPS.ZEROS_LIKE,
}  # fmt: skip


def safe(program: bytes) -> bytes:
    """The program with as many outputs more as that takes; no signature names them."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    found = [overwriting(graph, codes) for graph in model.subgraphs]
    for graph, outputs in zip(model.subgraphs, found):
        graph.outputs = np.array([*graph.outputs, *outputs], np.int32)
    return pack(model) if any(found) else program


def overwriting(graph: Any, codes: list[int]) -> list[int]:
    """The tensors that would be put where one lies that a later op reads."""
    reads: dict[int, list[int]] = {}
    for place, op in enumerate(graph.operators):
        for tensor in op.inputs if op.inputs is not None else []:
            reads.setdefault(int(tensor), []).append(place)
    home: dict[int, int] = {}
    found: list[int] = []
    for place, op in enumerate(graph.operators):
        code, output = codes[op.opcodeIndex], int(op.outputs[0]) if len(op.outputs) else -1
        taken = _taken(graph, code, op, reads)
        if taken is None or output in graph.outputs:
            continue
        first = home.get(taken, taken)
        changes = code in CHANGES
        if changes and len(reads[first]) > 1:
            continue
        neighbours = {tensor for tensor, where in home.items() if where == first} - {taken}
        if changes and any(reads[tensor][-1] > place for tensor in neighbours if tensor in reads):
            found.append(output)
        else:
            home[output] = first
    return found


def _taken(graph: Any, code: int, op: Any, reads: dict[int, list[int]]) -> int | None:
    """The input whose memory the op may take for its output."""
    for tensor in map(int, op.inputs[:2] if op.inputs is not None else []):
        if tensor < 0 or tensor in graph.inputs:
            continue
        if code in VIEWS:
            return tensor
        alike = len(op.outputs) > 0 and _size(graph, tensor) == _size(graph, int(op.outputs[0]))
        if code in CHANGES and alike and len(reads[tensor]) == 1:
            return tensor
    return None


def _size(graph: Any, tensor: int) -> int:
    """How many elements a tensor has; where one takes more bytes than another, too much is found, which is safe."""
    shape = graph.tensors[tensor].shape
    return int(np.prod(shape)) if shape is not None else 1
