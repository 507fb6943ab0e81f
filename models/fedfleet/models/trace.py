"""A Keras model's forward pass as a plain list of graph nodes, whatever Keras version and layers made it.

Calls are inlined, identities and dead nodes dropped, and whatever depends on neither the input nor a trainable weight
is folded to a constant. What is left is what `ops.py` has to know how to lower.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from fedfleet.wire.errors import ModelError

ALIASES = frozenset({"Identity", "ReadVariableOp", "IdentityN"})
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
RENAMED = {"reduction_indices": "axis", "dim": "axis"}  # raw_ops calls the argument otherwise than the graph
INERT = frozenset({"NoOp", "Assert"})


@dataclass(frozen=True)
class Node:
    """One operation: tensors go by name; `groups` says how `inputs` fall into the op's arguments."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    groups: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Trace:
    """A forward pass: nodes in topological order, from the tensor `input` to the tensor `output`."""

    nodes: tuple[Node, ...]
    input: str
    output: str
    trainable: Mapping[str, int]
    constants: Mapping[str, npt.NDArray[Any]]
    layers: tuple[str, ...] = ()


@dataclass
class _Walk:
    """What is known while walking the graphs: aliases, constants and the nodes met so far."""

    library: Mapping[str, Any]
    alias: dict[str, str] = field(default_factory=dict)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)


def trace(model: Any, batch: int) -> Trace:
    """The inference forward of `model` for exactly `batch` examples of float32."""
    spec = tf.TensorSpec([batch, *model.inputs[0].shape[1:]], tf.float32)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    library = {f.signature.name: f for f in function.graph.as_graph_def().library.function}
    walk = _Walk(library)
    trainable = _captures(function, model, walk)
    _visit(function.graph, "", walk)
    output = _resolve(walk, function.outputs[0].name)
    names = tuple(layer.name for layer in _layers(model))
    return Trace(_alive(walk.nodes, output), function.inputs[0].name, output, trainable, walk.constants, names)


def owner(trace: Trace, node: Node) -> str:
    """The layer that made the node, as `layer 'name'`; the node's own name where no layer is known."""
    # Keras 3 counts a layer's calls: dense, dense_1 for the second, which may also be another layer's name
    parts = node.name.split("/")
    for part in reversed(parts):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in trace.layers:
                return f"layer {name!r}"
    return f"node {node.name!r}"


def variable(weight: Any) -> Any:
    """The tf.Variable behind a Keras weight: Keras 3 wraps it, Keras 2 does not."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def _layers(model: Any) -> Iterator[Any]:
    """All layers, those of nested models too."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, tf.keras.Model):
            yield from _layers(layer)


def _captures(function: Any, model: Any, walk: _Walk) -> dict[str, int]:
    """Names of the captured tensors that are trainable weights; all others become constants of `walk`."""
    index = {id(variable(w).handle): i for i, w in enumerate(model.trainable_weights)}
    values = {id(v.handle): v for v in function.variables}
    captured = function.captured_inputs
    trainable: dict[str, int] = {}
    for inner, outer in zip(function.inputs[len(function.inputs) - len(captured) :], captured):
        if id(outer) in index:
            trainable[inner.name] = index[id(outer)]
        elif id(outer) in values:
            walk.constants[inner.name] = values[id(outer)].numpy()
        else:
            walk.constants[inner.name] = outer.numpy()
    return trainable


def _visit(graph: Any, prefix: str, walk: _Walk) -> None:
    """Adds the graph's nodes, every tensor name under `prefix`."""
    for op in graph.get_operations():
        inputs = tuple(_resolve(walk, prefix + t.name) for t in op.inputs)
        outputs = tuple(prefix + t.name for t in op.outputs)
        if op.type in CALLS:
            _call(op, prefix, inputs, outputs, walk)
        elif op.type in ALIASES:
            walk.alias.update(zip(outputs, inputs))
        elif op.type == "Const":
            walk.constants[outputs[0]] = tf.make_ndarray(op.get_attr("value"))
        elif op.type == "Shape" and op.inputs[0].shape.is_fully_defined():
            walk.constants[outputs[0]] = np.array(op.inputs[0].shape, op.get_attr("out_type").as_numpy_dtype)
        elif op.type != "Placeholder" and op.type not in INERT:
            _add(op, prefix, inputs, outputs, walk)


def _call(op: Any, prefix: str, inputs: tuple[str, ...], outputs: tuple[str, ...], walk: _Walk) -> None:
    """Inlines the function that `op` calls."""
    body = function_def_to_graph(walk.library[op.get_attr("f").name])
    inside = f"{prefix}{op.name}/"
    walk.alias.update((inside + t.name, outer) for t, outer in zip(body.inputs, inputs))
    _visit(body, inside, walk)
    walk.alias.update((outer, _resolve(walk, inside + t.name)) for t, outer in zip(body.outputs, outputs))


def _add(op: Any, prefix: str, inputs: tuple[str, ...], outputs: tuple[str, ...], walk: _Walk) -> None:
    """Adds one node, or its value where all inputs are constants."""
    attrs = {name: op.get_attr(name) for name in op.node_def.attr if not name.startswith("_")}
    node = Node(prefix + op.name, op.type, inputs, outputs, attrs, tuple(_groups(op)))
    if inputs and all(name in walk.constants for name in inputs):
        walk.constants.update(zip(outputs, _fold(node, walk.constants)))
    else:
        walk.nodes.append(node)


def _groups(op: Any) -> Iterable[tuple[str, int]]:
    """The op's argument names, each with the number of tensors in a list argument, or 0 for a single tensor."""
    for argument in op.op_def.input_arg:
        yield argument.name, op.get_attr(argument.number_attr) if argument.number_attr else 0


def _fold(node: Node, constants: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """The node's outputs, computed now."""
    function = getattr(tf.raw_ops, node.op, None)
    if function is None:
        raise ModelError(f"{node.name}: op {node.op} cannot be computed ahead; replace the layer it belongs to")
    values = [constants[name] for name in node.inputs]
    arguments: dict[str, Any] = {}
    for name, count in node.groups:
        arguments[RENAMED.get(name, name)] = [values.pop(0) for _ in range(count)] if count else values.pop(0)
    known = inspect.signature(function).parameters
    arguments.update((k, v) for k, v in node.attrs.items() if k in known)
    result = function(**arguments)
    return [t.numpy() for t in (result if isinstance(result, (list, tuple)) else [result])]


def _resolve(walk: _Walk, name: str) -> str:
    while name in walk.alias:
        name = walk.alias[name]
    return name


def _alive(nodes: list[Node], output: str) -> tuple[Node, ...]:
    """The nodes that `output` depends on, order kept."""
    needed = {output}
    alive: list[Node] = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            alive.append(node)
            needed.update(node.inputs)
    return tuple(reversed(alive))
