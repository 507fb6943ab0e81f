"""Takes the variables' initial values out of a device program: `set` brings the weights, so zeros need not travel.

Without this a program is as large as its weights. The file is rewritten with every constant aligned as LiteRT wants it.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema

CALL_ONCE = schema.BuiltinOperator.CALL_ONCE
CONTROL = frozenset({schema.BuiltinOperator.IF, schema.BuiltinOperator.WHILE})
ALIGNMENT = 16


class _Constant(schema.BufferT):  # type: ignore[misc]
    """A constant's bytes, written at a multiple of 16: the generated code would leave them anywhere."""

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the generated code's name
        if self.data is None or len(self.data) == 0:
            return int(super().Pack(builder))
        content = bytes(self.data)
        builder.StartVector(1, len(content), ALIGNMENT)
        builder.head = builder.Head() - len(content)
        builder.Bytes[builder.Head() : builder.Head() + len(content)] = content
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


def without_initial_values(program: bytes) -> bytes:
    """The program less the subgraphs that only initialise variables; unchanged where it has inner control flow."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    if CONTROL.intersection(codes):
        return program
    for graph in model.subgraphs:
        graph.operators = [op for op in graph.operators or [] if codes[op.opcodeIndex] != CALL_ONCE]
    kept = sorted({signature.subgraphIndex for signature in model.signatureDefs})
    for signature in model.signatureDefs:
        signature.subgraphIndex = kept.index(signature.subgraphIndex)
    model.subgraphs = [model.subgraphs[i] for i in kept]
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used.update(entry.buffer for entry in model.metadata or [])
    for i, buffer in enumerate(model.buffers):
        buffer.data = buffer.data if i in used else None
    return pack(model)


def pack(model: Any) -> bytes:
    """The file of a model taken apart; its constants are aligned anew."""
    model.buffers = [_constant(buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _constant(data: Any) -> _Constant:
    constant = _Constant()
    constant.data = data
    return constant
