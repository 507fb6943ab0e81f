"""The device's example store: what is appended is there again, whatever happened to the process or the card."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import HEADER, RECORD, files, held, numbered, small

from fedfleet.edge.data import Batch, Store, batches
from fedfleet.wire.errors import DataError, SettingsError, StoreError
from fedfleet.wire.examples import Examples

GOLDEN_FILE = "1f6e547e01a9ff4f"
GOLDEN_BATCHES = [[2, 1, 5], [7, 4, 3], [6], [6, 3, 7], [5, 4, 2], [1]]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("store")
    yield path
    shutil.rmtree(path)


# what goes in comes out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 13), st.booleans()), min_size=1, max_size=12))
def test_appended_is_held_over_any_reopening(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    store, total = small(folder), 0
    for amount, reopen in calls:
        store.append(numbered(total, total + amount))
        total += amount
        store = small(folder) if reopen else store
        assert held(store) == list(range(total)) and len(store) == total
    assert (store.dropped, store.torn, store.damaged) == (0, 0, 0)
    assert all(path.stat().st_size <= HEADER + 5 * RECORD for path in files(folder))
    shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(2, 6))
def test_the_bound_holds_and_the_oldest_go(
    tmp_path_factory: pytest.TempPathFactory, calls: list[int], room: int
) -> None:
    folder = tmp_path_factory.mktemp("bound")
    bound = room * (HEADER + 5 * RECORD)
    store, total = small(folder, bound), 0
    for amount in calls:
        store.append(numbered(total, total + amount))
        total += amount
        assert sum(path.stat().st_size for path in folder.iterdir()) <= bound
        assert held(store) == list(range(total - len(store), total))
        assert store.dropped + len(store) == total and len(store) >= min(total, (room - 1) * 5)
    shutil.rmtree(folder)


def test_targets_and_lone_values_survive(folder: Path) -> None:
    given = Examples(np.array([[1.5], [-0.0]], np.float32), np.array([[1, 2], [3, 4]], np.float32))
    Store.open(folder).append(given)
    back = Store.open(folder).arrays()
    assert back.x.tobytes() == given.x.tobytes() and back.y.tolist() == given.y.tolist()
    assert back.y.dtype == np.float32 and type(back.x) is np.ndarray


def test_an_example_may_be_larger_than_a_segment(folder: Path) -> None:
    store = Store.open(folder, 1200, 100)
    for n in range(5):
        store.append(Examples(np.full((1, 100), n, np.float32), np.array([n], np.int32)))
    assert store.arrays().y.tolist() == [3, 4] and store.dropped == 3
    with pytest.raises(DataError, match="does not fit"):
        Store.open(folder / "other", 400, 100).append(Examples(np.ones((1, 100), np.float32), np.zeros(1, np.int32)))


def test_the_file_is_the_one_written_down(folder: Path) -> None:
    Store.open(folder).append(numbered(0, 3))
    (path,) = files(folder)
    raw = path.read_bytes()
    assert path.name == "0000000001.segment" and len(raw) == HEADER + 3 * RECORD
    assert raw[:4] == b"FFEX" and raw[8:].startswith(b'{"segment": 1, "x": [2, 3], "y": null} ')
    assert hashlib.sha256(raw).hexdigest()[:16] == GOLDEN_FILE


# refusals


def test_another_schema_is_refused_with_both(folder: Path) -> None:
    small(folder).append(numbered(0, 2))
    store = small(folder)
    for other in (
        Examples(np.ones((1, 6), np.float32), np.zeros(1, np.int32)),
        Examples(np.ones((1, 2, 3), np.float32), np.zeros((1, 2), np.float32)),
    ):
        with pytest.raises(
            DataError, match=r"x \[2, 3\] with a label, not x \[(6|2, 3)\] with (a label|targets \[2\])"
        ):
            store.append(other)
    assert held(store) == [0, 1]


def test_what_cannot_be_trained_on_is_refused(folder: Path) -> None:
    store = small(folder)
    bad = numbered(0, 3)
    bad.x[1, 1, 2] = np.nan
    with pytest.raises(DataError, match=r"row 1, column \(1, 2\)"):
        store.append(bad)
    with pytest.raises(DataError, match="no examples"):
        store.append(numbered(0, 0))
    assert len(store) == 0 and files(folder) == []


def test_an_empty_store_says_so(folder: Path) -> None:
    store = small(folder / "made" / "here")
    assert len(store) == 0 and store.schema is None
    for call in (store.arrays, lambda: store.batches(4, 0), lambda: store.batches(4, 0, steps=3)):
        with pytest.raises(DataError, match="no examples"):
            call()


def test_settings_that_make_no_store(folder: Path) -> None:
    for bounds in ((100, 51), (100, 0), (-2, -1)):
        with pytest.raises(SettingsError, match="2 segments"):
            Store.open(folder, *bounds)
    with pytest.raises(SettingsError, match="batch size 0"):
        batches([numbered(0, 2)], 0, 1)


def test_the_system_refusing_is_a_store_error(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Store.open(folder / "file")


def test_nothing_heavy_is_loaded() -> None:
    heavy = ("tensorflow", "keras", "sklearn", "paho", "ai_edge_litert", "tflite_runtime", "asyncio")
    code = f"import sys, fedfleet.edge.data; print([m for m in {heavy} if m in sys.modules])"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# batches


def drawn(found: Iterator[Batch]) -> list[list[int]]:
    """The labels of each batch's real rows, once it is sure that the padding is as it must be."""
    result = []
    for batch in found:
        real = int(batch.weight.sum())
        assert batch.weight.tolist() == [1.0] * real + [0.0] * (len(batch.y) - real)
        assert (batch.x == batch.y[:, None, None]).all() and not batch.x[real:].any() and not batch.y[real:].any()
        result.append(batch.y[:real].tolist())
    return result


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 3), st.integers(0, 9))
def test_each_pass_visits_each_example_once(sizes: list[int], size: int, epochs: int, seed: int) -> None:
    edges = np.cumsum([1, *sizes])
    parts = [numbered(int(a), int(b)) for a, b in pairwise(edges)]
    total = sum(sizes)
    if total == 0:
        return
    got = drawn(batches(parts, size, seed, epochs=epochs))
    each = -(-total // size)
    assert len(got) == epochs * each
    for number in range(epochs):
        one = got[number * each : (number + 1) * each]
        assert sorted(n for batch in one for n in batch) == list(range(1, total + 1))
        assert [len(batch) for batch in one[:-1]] == [size] * (each - 1)


def test_batches_are_the_ones_written_down() -> None:
    assert drawn(batches([numbered(1, 4), numbered(4, 8)], 3, 42, epochs=2)) == GOLDEN_BATCHES


def test_parts_and_store_give_the_same_batches(folder: Path) -> None:
    store = small(folder)
    store.append(numbered(1, 24))
    assert drawn(store.batches(4, 9, epochs=2)) == drawn(batches([numbered(1, 24)], 4, 9, epochs=2))
    assert drawn(store.batches(4, 9)) == drawn(small(folder).batches(4, 9))


def test_seed_and_pass_change_the_order() -> None:
    parts = [numbered(1, 40)]
    first = drawn(batches(parts, 39, 1, epochs=3))
    assert len({tuple(batch) for batch in [*first, *drawn(batches(parts, 39, 2, epochs=3))]}) == 6


def test_steps_take_as_many_passes_as_needed() -> None:
    parts = [numbered(1, 6)]
    assert drawn(batches(parts, 2, 5, steps=8)) == drawn(batches(parts, 2, 5, epochs=3))[:8]
    assert drawn(batches(parts, 2, 5, steps=0)) == []


def test_batch_types(folder: Path) -> None:
    store = Store.open(folder)
    store.append(Examples(np.ones((3, 4), np.float32), np.ones((3, 2), np.float32)))
    (batch,) = store.batches(5, 0)
    kinds: list[tuple[Any, tuple[int, ...]]] = [(part.dtype, part.shape) for part in batch]
    assert kinds == [(np.float32, (5, 4)), (np.float32, (5, 2)), (np.float32, (5,))]
    assert batch.y.tolist() == [[1, 1]] * 3 + [[0, 0]] * 2


def test_batches_see_the_store_as_it_was(folder: Path) -> None:
    store = small(folder, 2 * (HEADER + 5 * RECORD))
    store.append(numbered(1, 11))
    running = store.batches(3, 0)
    store.append(numbered(11, 31))
    assert sorted(n for batch in drawn(running) for n in batch) == list(range(1, 11))
    assert held(store) == list(range(21, 31))
