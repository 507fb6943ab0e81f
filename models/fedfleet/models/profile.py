"""Where a device program's time goes: each operator of its `train` timed alone, since the runtimes tell nothing.

Operators that are alike (op, shapes, options, which inputs are constants) are timed once, each as a model of its own.
Alone, an operator finds its inputs in the cache, so the sum is near a step's time but is not one. Of two branches the
one for a condition that does not hold is counted: in our programs, SGD with momentum and nothing more.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models.runtime import interpreter
from fedfleet.models.slim import pack

NAMES: dict[int, str] = {n: name for name, n in vars(schema.BuiltinOperator).items() if isinstance(n, int)}
COPIES = frozenset({"READ_VARIABLE", "ASSIGN_VARIABLE"})
FREE = frozenset({"VAR_HANDLE"})
LITTLE = 1024  # bytes up to which a constant says what an op does, not what it works on
PATIENCE, RUNS = 0.004, 4
SHOWN = 3


@dataclass(frozen=True)
class Single:
    """One operator as it stands in the program `count` times, with the milliseconds of one of them."""

    shapes: str
    count: int
    ms: float


@dataclass(frozen=True)
class Cost:
    """All operators of one kind in a training step, in milliseconds; `costliest` holds the shapes that take most."""

    op: str
    count: int
    ms: float
    costliest: tuple[Single, ...]


def profile(program: bytes) -> tuple[Cost, ...]:
    """What each kind of op costs in one training step here, on one core; the costliest first."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    graph = _train(model)
    alike: dict[tuple[Any, ...], list[Any]] = {}
    for op in graph.operators:
        alike.setdefault(_kind(model, graph, op), []).append(op)
    empty = _best(_ready(_empty()))
    found: dict[str, list[Single]] = {}
    for same in alike.values():
        name = _name(model, same[0])
        ms = max(_seconds(model, graph, same[0]) - (0.0 if name in COPIES else empty), 0.0) * 1e3
        found.setdefault(name, []).append(Single(_shapes(model, graph, same[0]), len(same), ms))
    return tuple(sorted((_cost(name, singles) for name, singles in found.items()), key=lambda cost: -cost.ms))


def _cost(name: str, singles: list[Single]) -> Cost:
    ranked = sorted(singles, key=lambda single: -single.count * single.ms)
    total = sum(single.count * single.ms for single in singles)
    return Cost(name, sum(single.count for single in singles), total, tuple(ranked[:SHOWN]))


def _train(model: Any) -> Any:
    """The subgraph of the signature `train`."""
    return next(model.subgraphs[s.subgraphIndex] for s in model.signatureDefs if s.signatureKey == b"train")


def _name(model: Any, op: Any) -> str:
    code = model.operatorCodes[op.opcodeIndex]
    return NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _kind(model: Any, graph: Any, op: Any) -> tuple[Any, ...]:
    """What makes operators alike."""
    options = sorted((key, repr(value)) for key, value in vars(op.builtinOptions or object).items() if key[0] != "_")
    return op.opcodeIndex, tuple(options), tuple(_trait(model, graph, i) for i in [*op.inputs, -2, *op.outputs])


def _trait(model: Any, graph: Any, index: int) -> Any:
    """A tensor's type and shape, and if it is a constant, that or even its content."""
    if index < 0:
        return index
    tensor = graph.tensors[index]
    data = _content(model, tensor)
    told = data is not None and (data.tobytes() if _little(data) else data.size)
    return tensor.type, tuple(_shape(tensor)), told


def _content(model: Any, tensor: Any) -> npt.NDArray[np.uint8] | None:
    """A constant's bytes; None for what is computed."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def _little(data: npt.NDArray[np.uint8] | None) -> bool:
    return data is not None and data.size <= LITTLE


def _shape(tensor: Any) -> list[int]:
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]


def _shapes(model: Any, graph: Any, op: Any) -> str:
    """Inputs and outputs for people, such as `16x144, 144x32 -> 16x32`, without what only says how, such as axes."""

    def text(indices: Any) -> str:
        tensors = [graph.tensors[i] for i in indices if i >= 0]
        sizes = [_shape(tensor) for tensor in tensors if not _little(_content(model, tensor))]
        return ", ".join("x".join(map(str, size)) or "." for size in sizes)

    return f"{text(op.inputs)} -> {text(op.outputs)}"


def _seconds(model: Any, graph: Any, op: Any) -> float:
    """The best time of one operator; 0 for one that refuses made-up inputs, such as a shape of zeros."""
    name = _name(model, op)
    if name in FREE:
        return 0.0
    if name in COPIES:  # which is all they do, and a variable needs more than one operator to exist
        tensor = graph.tensors[op.outputs[0] if name == "READ_VARIABLE" else op.inputs[1]]
        source, target = (np.ones(_shape(tensor), np.float32) for _ in range(2))
        return _best(lambda: np.copyto(target, source))
    try:
        return _best(_ready(_alone(model, graph, op)))
    except (RuntimeError, ValueError):
        return 0.0


def _ready(program: bytes) -> Callable[[], Any]:
    """The invocation of a model of one operator, its inputs made up."""
    loaded = interpreter(program)
    loaded.allocate_tensors()
    random = np.random.default_rng(0)
    for detail in loaded.get_input_details():
        # whole numbers are indices or labels: 0 is in every range
        shape, whole = tuple(detail["shape"]), np.issubdtype(detail["dtype"], np.integer)
        value = np.zeros(shape) if whole else random.random(shape) + 0.5
        loaded.set_tensor(detail["index"], value.astype(detail["dtype"]))
    return loaded.invoke  # type: ignore[no-any-return]


def _best(work: Callable[[], Any]) -> float:
    """The shortest of a few runs; one more comes first, unseen."""
    work()
    best, end, runs = float("inf"), time.perf_counter() + PATIENCE, 0
    while (began := time.perf_counter()) < end or runs < RUNS:
        work()
        best, runs = min(best, time.perf_counter() - began), runs + 1
    return best


def _alone(model: Any, graph: Any, op: Any) -> bytes:
    """A model of this one operator: what was computed before it is its input."""
    order = list(dict.fromkeys(int(i) for i in [*op.inputs, *op.outputs] if i >= 0))
    where = {-1: -1} | {index: k for k, index in enumerate(order)}
    buffers, tensors = [schema.BufferT()], [copy.copy(graph.tensors[index]) for index in order]
    for tensor in tensors:
        constant = _content(model, tensor) is not None
        if constant:
            buffers.append(copy.copy(model.buffers[tensor.buffer]))
        tensor.buffer = len(buffers) - 1 if constant else 0
    moved = copy.copy(op)
    moved.opcodeIndex = 0
    moved.inputs, moved.outputs = ([where[int(i)] for i in indices] for indices in (op.inputs, op.outputs))
    inputs = [k for k, tensor in enumerate(tensors) if tensor.buffer == 0 and k not in moved.outputs]
    return _model(buffers, tensors, (inputs, moved.outputs), [moved], [model.operatorCodes[op.opcodeIndex]])


def _empty() -> bytes:
    """A model that hands on a number."""
    number = schema.TensorT()
    number.shape, number.name, number.buffer = [1], b"x", 0
    return _model([schema.BufferT()], [number], ([0], [0]), [], [])


def _model(buffers: list[Any], tensors: list[Any], ends: tuple[Any, Any], ops: list[Any], codes: list[Any]) -> bytes:
    """The file of a model of one subgraph, which has inputs and outputs as `ends` says."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    graph.tensors, graph.operators = tensors, ops
    graph.inputs, graph.outputs = ends
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], buffers, codes
    return pack(model)
