"""Who is whose neighbour: graphs are connected, matrices doubly stochastic, and what cannot be is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedfleet.sim.gossip.graph import Graph, gap, graph, matrix, pieces, row
from fedfleet.wire.errors import SettingsError


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    devices, seed = draw(st.integers(2, 30)), draw(st.integers(0, 2**31))
    kind = draw(st.sampled_from(["ring", "torus", "random"]))
    if kind == "torus":
        assume(any(devices % rows == 0 for rows in range(2, devices)))
    if kind != "random":
        return graph(kind, devices, seed)
    degree = draw(st.integers(min(2, devices - 1), devices - 1))
    assume(degree * devices % 2 == 0)
    return graph(f"random:{degree}", devices, seed)


@given(graphs())
def test_every_graph_is_connected_symmetric_and_without_loops(wires: Graph) -> None:
    assert pieces(wires) == [list(range(len(wires)))]
    for device, near in enumerate(wires):
        assert device not in near
        assert list(near) == sorted(set(near))
        assert all(device in wires[other] for other in near)


@given(graphs(), st.sets(st.integers(0, 29), max_size=15))
def test_among_the_living_the_matrix_is_symmetric_and_doubly_stochastic(wires: Graph, dead: set[int]) -> None:
    living = [device for device in range(len(wires)) if device not in dead]
    found = matrix(wires, dead)[np.ix_(living, living)]
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    assert (found >= -1e-15).all()
    # own shares are above 0: the matrix is aperiodic, and its powers tend to the mean where the graph is connected
    assert (np.diag(found) > 0).all()


@given(graphs())
def test_repeated_mixing_leads_everyone_to_the_mean(wires: Graph) -> None:
    models = np.arange(len(wires), dtype=np.float64)
    power = np.linalg.matrix_power(matrix(wires), 5000)
    np.testing.assert_allclose(power @ models, models.mean(), atol=1e-6)
    assert 0 < gap(wires) <= 1


def test_a_ring_has_two_neighbours_each_and_thirds_for_shares() -> None:
    wires = graph("ring", 5, 0)
    assert wires == ((1, 4), (0, 2), (1, 3), (2, 4), (0, 3))
    assert row(wires, 0) == pytest.approx({0: 1 / 3, 1: 1 / 3, 4: 1 / 3})
    assert list(row(wires, 2)) == [1, 2, 3]
    assert graph("ring", 2, 0) == ((1,), (0,))


def test_a_torus_is_the_squarest_grid_with_its_borders_joined() -> None:
    wires = graph("torus", 12, 0)  # 3 rows of 4
    assert wires[0] == (1, 3, 4, 8)
    assert wires[6] == (2, 5, 7, 10)
    assert {len(near) for near in wires} == {4}
    assert {len(near) for near in graph("torus", 8, 0)} == {3}, "2 rows: above and below are the same device"


def test_a_random_graph_is_regular_seeded_and_not_the_lattice_it_began_as() -> None:
    wires = graph("random:4", 20, 3)
    assert {len(near) for near in wires} == {4}
    assert wires == graph("random:4", 20, 3)
    assert wires != graph("random:4", 20, 4)
    assert gap(wires) > 2 * gap(graph("ring", 20, 3))
    assert graph("random:4", 5, 1) == tuple(tuple(n for n in range(5) if n != device) for device in range(5))


def test_what_the_lost_weighed_goes_to_the_device_itself() -> None:
    wires = graph("ring", 6, 0)
    assert row(wires, 1, without={2}) == pytest.approx({0: 1 / 3, 1: 2 / 3})
    assert matrix(wires, {2})[2].sum() == matrix(wires, {2})[:, 2].sum() == 0


def test_a_ring_that_loses_two_that_are_not_neighbours_falls_apart() -> None:
    assert pieces(graph("ring", 8, 0), {1, 4}) == [[0, 5, 6, 7], [2, 3]]
    assert pieces(graph("ring", 8, 0), {6, 7}) == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("spec", "devices", "text"),
    [
        ("star", 8, "topology 'star' is unknown: write ring, torus or random:DEGREE"),
        ("ring:3", 8, "unknown"),
        ("ring", 1, "gossip takes at least 2 devices, not 1"),
        ("torus", 7, "7 is prime: take another number of devices, or the ring"),
        ("torus", 2, "2 is prime"),
        ("random", 8, "a random graph needs its degree, not ''"),
        ("random:x", 8, "needs its degree, not 'x'"),
        ("random:8", 8, "8 devices can have 2 to 7 neighbours each, not 8"),
        ("random:1", 8, "8 devices can have 2 to 7 neighbours each, not 1"),
        ("random:3", 7, "7 devices cannot all have 3 neighbours: one of both numbers must be even"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(spec: str, devices: int, text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        graph(spec, devices, 0)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)
