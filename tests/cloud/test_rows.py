"""Updates on disk: what comes back, how much memory it takes, and a disk that does not take it."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fedfleet.cloud.rounds import Round
from fedfleet.cloud.rules import rows, rule
from fedfleet.cloud.rules.rows import BLOCK, Matrix, Rows
from fedfleet.wire.errors import FrameError, StoreError
from fedfleet.wire.messages import Blob, Plan, Task, Update


def first(found: Rows) -> Matrix:
    return next(found.blocks())[0].astype(np.float64)


def kept(found: Rows) -> list[list[float]]:
    whole: list[list[float]] = np.concatenate(list(found.blocks()), axis=1).tolist()
    return whole


def updates(count: int, parameters: int) -> Matrix:
    return np.random.Generator(np.random.PCG64(5)).normal(size=(count, parameters)).astype(np.float32)


def test_blocks_and_rows_are_what_was_added_in_an_order_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 12)  # blocks of 12 // 5 = 2 weights, the last of 1
    added = updates(5, 7)
    found, other = Rows(first, 7), Rows(first, 7)
    for row in added:
        found.add(row, 1)
    for row in added[::-1]:
        other.add(row, 9)
    blocks = list(found.blocks())
    assert [block.shape for block in blocks] == [(5, 2), (5, 2), (5, 2), (5, 1)]
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
    assert kept(found) == kept(other)
    assert sorted(kept(found)) == sorted(added.tolist())


def test_no_zero_has_a_sign_and_no_number_is_denormal() -> None:
    found, least = Rows(first, 5), float(np.finfo(np.float32).tiny)
    found.add(np.array([-0.0, 1e-42, -1e-45, -least, least], np.float32), 1)
    (block,) = found.blocks()
    assert block.tolist() == [[0.0, 0.0, 0.0, -least, least]]
    assert np.signbit(block).tolist() == [[False, False, False, True, False]]


def test_what_is_refused_is_not_kept() -> None:
    found = Rows(first, 2)
    for value in (2.0**32, -(2.0**33), np.nan, np.inf):
        with pytest.raises(FrameError, match="move by 4294967296 or more; lower the learning rate"):
            found.add(np.array([0, value], np.float32), 1)
    assert len(found) == 0
    with pytest.raises(ValueError, match="combination of no updates"):
        found.value()


@pytest.mark.parametrize("name", ["median", "trimmed:0.1", "krum:2", "bulyan:2", "geomedian"])
def test_memory_is_that_of_a_few_updates(name: str) -> None:
    count, parameters = 24, 200_000
    found = rule(name).aggregate(parameters)
    for row in updates(count, parameters):
        found.add(row, 1)
    gc.collect()
    tracemalloc.start()
    try:
        assert found.value().shape == (parameters,)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 8 * BLOCK + 6 * 8 * parameters
    assert peak < 8 * count * parameters


def test_the_file_goes_with_the_rows() -> None:
    found = Rows(first, 3)
    opened = Path(f"/proc/self/fd/{found._file.fileno()}").resolve()
    assert opened.parent == Path(tempfile.gettempdir()).resolve()
    del found
    gc.collect()
    assert opened not in {entry.resolve() for entry in Path("/proc/self/fd").iterdir()}


def update(device: str, value: float) -> Update:
    return Update(3, device, 10, "float32", np.full(4, value, "<f4").tobytes())


def test_a_full_disk_ends_the_round_and_blames_no_device() -> None:
    found = Rows(first, 4)
    task = Task(3, Blob("a" * 64, 9), Blob("b" * 64, 16), Plan())
    round_ = Round(task, 4, found, 1, ["a", "b"])
    round_.take(update("a", 1.0))
    with Path("/dev/full").open("r+b", buffering=0) as full:
        file, found._file = found._file, full  # type: ignore[assignment]
        with pytest.raises(
            StoreError, match=f"{tempfile.gettempdir()}: No space left on device; free the disk, or set"
        ):
            round_.take(update("b", 2.0))
        found._file = file
    assert (list(round_.counted), round_.declined, len(found)) == (["a"], {}, 1)
    assert round_.take(update("b", 2.0)).outcome == "counted"
    assert sorted(kept(found)) == [[1.0] * 4, [2.0] * 4]


def test_no_room_for_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match=f"{tmp_path}/gone: No such file or directory; free the disk, or set TMPDIR"):
        rule("median").aggregate(3)
