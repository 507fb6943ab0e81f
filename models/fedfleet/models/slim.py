"""Takes out of a program what no device needs: the initial values of variables, since `set` brings weights, and names.

Without this a program is larger than its weights. Every constant is written aligned, as LiteRT wants it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema

CALL_ONCE = schema.BuiltinOperator.CALL_ONCE
BRANCHES = ("thenSubgraphIndex", "elseSubgraphIndex", "condSubgraphIndex", "bodySubgraphIndex")
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
    """The program less the subgraphs that only initialise variables, and less the names inside."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    for graph in model.subgraphs:
        graph.operators = [op for op in graph.operators or [] if codes[op.opcodeIndex] != CALL_ONCE]
    kept = _reached(model)
    for signature in model.signatureDefs:
        signature.subgraphIndex = kept.index(signature.subgraphIndex)
    model.subgraphs = [model.subgraphs[i] for i in kept]
    for graph in model.subgraphs:
        for options, field in _calls(graph):
            setattr(options, field, kept.index(getattr(options, field)))
    for graph in model.subgraphs:
        # the converter numbers the branches anew each time, and the same model shall have the same bytes
        graph.name = None
        for tensor in graph.tensors:
            tensor.name = None
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


def _reached(model: Any) -> list[int]:
    """The subgraphs that are a signature's, or a branch of one that is reached."""
    reached, ahead = set[int](), [signature.subgraphIndex for signature in model.signatureDefs]
    while ahead:
        index = ahead.pop()
        if index not in reached:
            reached.add(index)
            ahead.extend(getattr(options, field) for options, field in _calls(model.subgraphs[index]))
    return sorted(reached)


def _calls(graph: Any) -> Iterator[tuple[Any, str]]:
    """Every place in the graph that names another subgraph: an op's options and the field."""
    for op in graph.operators:
        for field in BRANCHES:
            if hasattr(op.builtinOptions, field):
                yield op.builtinOptions, field


def _constant(data: Any) -> _Constant:
    constant = _Constant()
    constant.data = data
    return constant
