from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.models.compiled import MAX_PARAMETERS, Compiled, Entry, load
from fedfleet.wire.errors import StoreError

HEAVY = ("tensorflow", "keras", "ai_edge_litert", "tflite_runtime")


def sample() -> Compiled:
    layout = (Entry("dense/kernel", (2, 3), 0, 6), Entry("dense/bias", (3,), 6, 3, shared=False))
    weights = np.array([1, -0.0, 1e-42, np.inf, 5, 6, 7, 8, 9], np.float32)
    return Compiled(b"program", weights, layout, "mean_squared_error", 16, (2,), (3,))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    before = sample()
    before.save(tmp_path / "new" / "folder")
    after = load(tmp_path / "new" / "folder")
    assert after.weights.tobytes() == before.weights.tobytes()
    assert after.weights.flags.writeable
    for name in ("program", "layout", "loss", "batch", "input_shape", "output_shape", "digest"):
        assert getattr(after, name) == getattr(before, name)


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    sample().save(tmp_path)
    replace(sample(), program=b"another").save(tmp_path)
    assert load(tmp_path).program == b"another"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["program.json", "program.tflite", "weights.bin"]


def test_the_digest_is_the_programs_sha256() -> None:
    assert sample().digest == "1310ca2c8932dbd118668bd97442558a3e1f546b5e15c69699dfbd6024f548d8"
    assert sample().digest == replace(sample(), batch=3).digest
    assert sample().digest != replace(sample(), program=b"other").digest


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        load(tmp_path / "gone")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        sample().save(tmp_path / "file")


@pytest.mark.parametrize("name", ["program.tflite", "weights.bin", "program.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    sample().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StoreError, match=name):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("program.tflite", b"progrem", "does not match the digest"),
        ("weights.bin", b"\0" * 35, "has 35 bytes where 36 belong"),
        ("weights.bin", b"\0" * 37, "is larger than"),
        ("program.json", b"{", "is not JSON"),
        ("program.json", b"\xff\xfe", "is not JSON"),
        ("program.json", b"[" * 100_000, "is not JSON"),
        ("program.json", b"[]", "is not format 1"),
        ("program.json", b'{"format": 2}', "is not format 1"),
        ("program.json", b'{"format": 1}', "a field is missing or wrong"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    sample().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreError) as caught:
        load(tmp_path)
    assert name in str(caught.value) and says in str(caught.value)


WRONG: list[Callable[[dict[str, object]], object]] = [
    lambda h: h.update(parameters=-1),
    lambda h: h.update(parameters=MAX_PARAMETERS + 1),
    lambda h: h.update(parameters="9"),
    lambda h: h.update(parameters=True),
    lambda h: h.update(batch=1.5),
    lambda h: h.update(batch=None),
    lambda h: h.update(input_shape=[2] * 9),
    lambda h: h.update(input_shape=7),
    lambda h: h.update(layout=[{"name": "x"}]),
    lambda h: h.update(layout=[[]]),
    lambda h: h.update(layout=[]),
    lambda h: h.update(layout=[{"name": "x", "shape": [3], "offset": 0, "size": 9, "shared": True}]),
    lambda h: h.update(layout=[{"name": "x", "shape": [9], "offset": 1, "size": 9, "shared": True}]),
    lambda h: h.pop("digest"),
]


@pytest.mark.parametrize("damage", WRONG)
def test_a_wrong_field_is_refused(tmp_path: Path, damage: Callable[[dict[str, object]], object]) -> None:
    sample().save(tmp_path)
    path = tmp_path / "program.json"
    header = json.loads(path.read_text())
    damage(header)
    path.write_text(json.dumps(header))
    with pytest.raises(StoreError, match=r"program\.json"):
        load(tmp_path)


@given(st.binary(max_size=200))
def test_no_header_gets_past_as_another_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    sample().save(folder)
    (folder / "program.json").write_bytes(content)
    with pytest.raises(StoreError):
        load(folder)


def test_loading_needs_numpy_alone() -> None:
    path = [str(Path(entry).resolve()) for entry in sys.path if entry]
    code = f"import sys; sys.path[:] = {path!r}\nimport fedfleet.models.compiled\n"
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
