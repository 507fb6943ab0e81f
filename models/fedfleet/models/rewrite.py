"""Rewrites of a traced graph that change its cost, or what the converter makes of it, not its result."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from fedfleet.models.trace import Node, Trace, alive

TRANSPOSES = ("transpose_a", "transpose_b")
PRODUCTS = {"BatchMatMulV2", "Conv2D", "Conv2DBackpropInput", "Einsum", "MatMul"}
MOVES = {"ExpandDims", "Identity", "Reshape", "Squeeze", "Transpose", "Unpack"}


def simplify(trace: Trace) -> Trace:
    """All rewrites, in the order in which they help each other."""
    return apart(pool_first(hoist(once(trace))))


def apart(trace: Trace) -> Trace:
    """A relu straight after a product of run-time tensors takes the form that the converter leaves alone."""
    made = {name: node for node in trace.nodes for name in node.outputs}

    def product(name: str) -> bool:
        node = made.get(name)
        if node is None or node.op not in PRODUCTS:
            return node is not None and node.op in MOVES and product(node.inputs[0])
        return not set(node.inputs) & set(trace.constants)

    nodes = [
        replace(node, op=f"{node.op}OfProduct") if node.op in {"Relu", "Relu6"} and product(node.inputs[0]) else node
        for node in trace.nodes
    ]
    return replace(trace, nodes=tuple(nodes))


def pool_first(trace: Trace) -> Trace:
    """Max-pools before adding a bias or clipping at zero: both are monotone, and there is less left to do it to.

    The first maximum stays the first, except that a bias may round two neighbouring floats to one: such a tie then goes
    to the larger of the two, not to the first.
    """
    nodes = list(trace.nodes)
    while (pair := _late_pool(nodes, trace.output)) is not None:
        before, pool = (nodes[i] for i in pair)
        nodes[pair[0]] = replace(pool, inputs=before.inputs[:1], outputs=before.outputs)
        nodes[pair[1]] = replace(before, inputs=(*pool.inputs, *before.inputs[1:]), outputs=pool.outputs)
    return replace(trace, nodes=tuple(nodes))


def _late_pool(nodes: list[Node], output: str) -> tuple[int, int] | None:
    """Positions of a monotone node and of a max-pool that alone reads it."""
    made = {name: i for i, node in enumerate(nodes) for name in node.outputs}
    readers = Counter([output, *(name for node in nodes for name in node.inputs)])
    for i, pool in enumerate(nodes):
        source = made.get(pool.inputs[0]) if pool.op == "MaxPool" else None
        if source is not None and nodes[source].op in {"Relu", "BiasAdd"} and readers[pool.inputs[0]] == 1:
            return source, i
    return None


def once(trace: Trace) -> Trace:
    """What is computed several times from the same tensors, as weights are split at every step, is computed once."""
    first: dict[str, Node] = {}
    constant: dict[tuple[Any, ...], str] = {}
    values = {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in trace.constants.items()}
    renamed = {name: constant.setdefault(value, name) for name, value in values.items()}
    nodes: list[Node] = []
    for node in trace.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        same = first.setdefault(repr((node.op, inputs, sorted(node.attrs.items()))), node)
        if same is node:
            nodes.append(replace(node, inputs=inputs))
        renamed.update(zip(node.outputs, same.outputs))
    return replace(trace, nodes=tuple(nodes), output=renamed.get(trace.output, trace.output))


def hoist(trace: Trace) -> Trace:
    """What is done to every step of a sequence alike, and waits for no step before, is done to all steps at once."""
    while (group := _alike(trace)) is not None:
        trace = _at_once(trace, group)
    return trace


def _alike(trace: Trace) -> list[Node] | None:
    """The nodes that do one and the same to each output of an Unpack along the first axis, in its order."""
    sources = {name: node for node in trace.nodes if _steps(node) for name in node.outputs}
    groups: dict[str, list[Node]] = {}
    for node in trace.nodes:
        step, *others = _arguments(trace, node)
        if step in sources:
            key = repr((sources[step].name, node.op, others, sorted(node.attrs.items())))
            groups.setdefault(key, []).append(node)
    for nodes in groups.values():
        order = sources[_arguments(trace, nodes[0])[0]].outputs
        by_step = {_arguments(trace, node)[0]: node for node in nodes}
        if len(order) > 1 and len(nodes) == len(order) == len(by_step):
            return [by_step[name] for name in order]
    return None


def _steps(node: Node) -> bool:
    return node.op == "Unpack" and node.attrs["axis"] == 0


def _arguments(trace: Trace, node: Node) -> tuple[str, ...]:
    """The tensor that the node changes, then what it needs for that; a nameless one where it has to stay."""
    if node.op == "Split" and node.inputs[0] in trace.constants:
        return node.inputs[::-1]
    movable = node.op == "BiasAdd" or (node.op == "MatMul" and not {*map(node.attrs.get, TRANSPOSES)} & {True})
    return node.inputs if movable else ("",)


def _at_once(trace: Trace, group: list[Node]) -> Trace:
    """The trace with one node in the place of the group's first, and its outputs taken apart again after it."""
    first = min(group, key=trace.nodes.index)
    source = next(node for node in trace.nodes if _arguments(trace, first)[0] in node.outputs)
    constants, inputs, op, attrs = dict(trace.constants), (source.inputs[0], first.inputs[1]), first.op, first.attrs
    if op == "MatMul":
        op, attrs = "BatchMatMulV2", {"adj_x": False, "adj_y": False}
    elif op == "Split":
        axis = f"{first.name}/all/axis:0"
        before = int(trace.constants[first.inputs[0]])
        constants[axis] = np.asarray(before if before < 0 else before + 1)
        inputs = (axis, source.inputs[0])
    made = tuple(f"{first.name}/all:{i}" for i in range(len(first.outputs)))
    new = [Node(f"{first.name}/all", op, inputs, made, attrs)]
    for i, name in enumerate(made):
        steps = tuple(node.outputs[i] for node in group)
        new.append(Node(f"{first.name}/steps_{i}", "Unpack", (name,), steps, {"axis": 0, "num": len(steps)}))
    at = trace.nodes.index(first)
    kept = [node for node in trace.nodes[at:] if node not in group]
    return replace(trace, nodes=alive([*trace.nodes[:at], *new, *kept], trace.output), constants=constants)
