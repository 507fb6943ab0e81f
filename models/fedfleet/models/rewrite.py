"""Rewrites of a traced graph that change its cost, not its result."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fedfleet.models.trace import Node, Trace


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
