"""Who is whose neighbour, and what its model weighs: graphs are connected, matrices doubly stochastic."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isqrt

import numpy as np
import numpy.typing as npt

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import stream

Graph = tuple[tuple[int, ...], ...]
SWAPS = 10  # tries an edge, after which a random graph has forgotten what it began as


def graph(spec: str, devices: int, seed: int) -> Graph:
    """The neighbours of each device, in order, on a `ring`, a `torus` or a `random:DEGREE`; it is connected.

    A random one has the same degree everywhere, and is the same for the same seed. SettingsError for what cannot be.
    """
    if devices < 2:
        raise SettingsError(f"gossip takes at least 2 devices, not {devices}: one alone has no neighbour")
    kind, _, argument = spec.partition(":")
    if spec == "ring":
        return _sorted(_lattice(devices, min(2, devices - 1)), devices)
    if spec == "torus":
        return _sorted(_torus(devices), devices)
    if kind == "random":
        return _sorted(_random(devices, _degree(argument, devices), seed), devices)
    raise SettingsError(f"topology {spec!r} is unknown: write ring, torus or random:DEGREE")


def row(wires: Graph, device: int, without: Collection[int] = ()) -> dict[int, float]:
    """What the model of each neighbour that is not in `without`, and `device`'s own, weigh in its mean; in order.

    Metropolis-Hastings: 1 / (1 + the larger of both degrees), the rest to itself (Xiao, Boyd and Lall 2005).
    Degrees are those of the whole graph: what a lost neighbour weighed goes to the device itself, so that nobody else
    need know of the loss, and the matrix among the living remains symmetric and doubly stochastic.
    """
    shares = {
        other: 1 / (1 + max(len(wires[device]), len(wires[other]))) for other in wires[device] if other not in without
    }
    shares[device] = 1 - sum(shares.values())
    return dict(sorted(shares.items()))


def matrix(wires: Graph, without: Collection[int] = ()) -> npt.NDArray[np.float64]:
    """All rows as one matrix, float64[devices, devices]; who is in `without` has a row and a column of zeros."""
    found = np.zeros((len(wires), len(wires)))
    for device in range(len(wires)):
        if device not in without:
            for other, share in row(wires, device, without).items():
                found[device, other] = share
    return found


def gap(wires: Graph) -> float:
    """The spectral gap of the matrix, 1 - max(|second eigenvalue|, |last|): how fast differences die out, 0 to 1."""
    return float(1 - np.sort(np.abs(np.linalg.eigvalsh(matrix(wires))))[-2])


def pieces(wires: Graph, without: Collection[int] = ()) -> list[list[int]]:
    """The parts that hang together once who is in `without` is gone, the first device's first."""
    left, found = set(range(len(wires))) - set(without), list[list[int]]()
    while left:
        reached, edge = set[int](), [min(left)]
        while edge:
            device = edge.pop()
            reached.add(device)
            edge += [other for other in wires[device] if other in left and other not in reached]
        left -= reached
        found.append(sorted(reached))
    return found


def _sorted(edges: Collection[tuple[int, int]], devices: int) -> Graph:
    near: list[set[int]] = [set() for _ in range(devices)]
    for one, other in edges:
        near[one].add(other)
        near[other].add(one)
    return tuple(tuple(sorted(found)) for found in near)


def _lattice(devices: int, degree: int) -> list[tuple[int, int]]:
    """The edges of a ring in which each has the nearest `degree` for neighbours."""
    steps = [*range(1, degree // 2 + 1), *([devices // 2] if degree % 2 else [])]
    return sorted({_edge(device, (device + step) % devices) for step in steps for device in range(devices)})


def _torus(devices: int) -> list[tuple[int, int]]:
    """The edges of the squarest grid of that many whose borders are joined; 2 x N joins each pair once."""
    rows = next(rows for rows in range(isqrt(devices), 0, -1) if devices % rows == 0)
    if rows == 1:
        raise SettingsError(
            f"a torus needs rows and columns, and {devices} is prime: take another number of devices, or the ring"
        )
    columns = devices // rows
    places = [(device // columns, device % columns) for device in range(devices)]
    right = {_edge(r * columns + c, r * columns + (c + 1) % columns) for r, c in places}
    down = {_edge(r * columns + c, (r + 1) % rows * columns + c) for r, c in places}
    return sorted(right | down)


def _degree(text: str, devices: int) -> int:
    """The degree of a random graph; SettingsError unless a connected graph can have it everywhere."""
    if not text.isdecimal():
        raise SettingsError(f"a random graph needs its degree, not {text!r}: write random:4")
    degree = int(text)
    if not min(2, devices - 1) <= degree < devices:
        raise SettingsError(f"{devices} devices can have 2 to {devices - 1} neighbours each, not {degree}")
    if degree * devices % 2:
        raise SettingsError(f"{devices} devices cannot all have {degree} neighbours: one of both numbers must be even")
    return degree


def _random(devices: int, degree: int, seed: int) -> Sequence[tuple[int, int]]:
    """The edges of a random regular graph: a lattice whose edges swap ends until it is mixed, and connected."""
    edges, random = _lattice(devices, degree), stream("graph", seed)
    joined = set(edges)
    while True:
        for _ in range(SWAPS * len(edges)):
            one, two = (int(random.random_raw()) % len(edges) for _ in range(2))
            (a, b), (c, d) = edges[one], edges[two] if int(random.random_raw()) % 2 else edges[two][::-1]
            new = _edge(a, d), _edge(c, b)
            if a == d or c == b or new[0] == new[1] or joined & set(new):
                continue
            joined -= {edges[one], edges[two]}
            joined |= set(new)
            edges[one], edges[two] = new
        if len(pieces(_sorted(edges, devices))) == 1:
            return edges


def _edge(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)
