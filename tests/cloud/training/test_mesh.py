"""A model in parts on a mesh of devices trains as on one device, each with its share; what cannot be is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from processes import environment

from fedfleet.cloud.training.grid import Grid, parse
from fedfleet.wire.errors import SettingsError

CHILD = Path(__file__).with_name("meshed.py")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
KERAS_2 = version("keras").startswith("2.")
NEAR = 1e-5
Found = dict[str, Any]


def meshed(folder: Path, grid: str, *names: str) -> list[Found]:
    done = subprocess.run(
        [sys.executable, str(CHILD), str(folder), grid, *names],
        capture_output=True, text=True, env=environment() | QUIET, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_mesh_of_two_by_two_trains_as_one_device_does(tmp_path: Path) -> None:
    for found in meshed(tmp_path, "batch=2,model=2", "digits", "dense:adam", "conv:sgd", "embedding"):
        assert max(found["apart"]) < NEAR
        assert max(found["losses"]) < NEAR


def test_each_device_holds_its_share_of_the_weights_alone(tmp_path: Path) -> None:
    digits, odd = meshed(tmp_path, "batch=1,model=2", "digits", "odd")
    every, each = digits["bytes"]
    assert each == [every / 2, every / 2]
    assert digits["strategy"].startswith(
        "DTensor, mesh batch=1,model=2: 8 of 8 weights in 2 parts, 0.0261 of 0.0523 MiB"
    )
    assert max(odd["apart"]) < NEAR
    every, each = odd["bytes"]  # 7 biases are whole; 64 rows and 28 weights are cut along the other axis
    assert each == [(every - 7 * 4) / 2 + 7 * 4] * 2
    assert "3 of 4 weights in 2 parts" in odd["strategy"]
    assert "; whole on each: " in odd["strategy"] and odd["strategy"].endswith("bias")


def test_a_layer_that_cannot_compute_in_parts_gathers_its_weights(tmp_path: Path) -> None:
    gathered, normalized = meshed(tmp_path, "batch=2,model=2", "gathered", "normalized")
    assert max(gathered["apart"]) < NEAR
    assert gathered["bytes"][1] == [gathered["bytes"][0] / 2] * 4
    *means, variance = sorted(normalized["apart"])
    assert max(means) < NEAR
    assert variance < (1e-3 if KERAS_2 else NEAR)  # Keras 2's fused layer has the variance of a sample


def test_a_mesh_that_was_ended_goes_on_from_its_backup(tmp_path: Path) -> None:
    (found,) = meshed(tmp_path, "batch=2,model=2", "again:dense:adam")
    assert (found["resumed"], found["epochs"]) == (2, 1)
    assert max(found["apart"]) == 0


def test_what_a_mesh_cannot_compute_is_refused_by_name(tmp_path: Path) -> None:
    recurrent, moody, dropout = meshed(tmp_path, "batch=2,model=2", "recurrent", "moody", "dropout")
    op = "TensorListFromTensor" if KERAS_2 else "EmptyTensorList"
    assert f"has no {op} on a mesh); train it with --strategy mirrored" in recurrent["refused"]
    assert "is not the one of a single device); train it with --strategy mirrored" in moody["refused"]
    assert ("refused" in dropout) is KERAS_2
    if KERAS_2:
        assert "has no RandomUniform on a mesh" in dropout["refused"]


def test_a_batch_that_does_not_divide_and_too_many_devices_are_refused(tmp_path: Path) -> None:
    (found,) = meshed(tmp_path, "batch=3,model=1", "dense")
    assert found["refused"] == (
        "a batch of 16 does not divide by 3 parts of the mesh's batch; take one that does, such as 15"
    )
    code = "from fedfleet.cloud.training import grid, mesh; mesh.mesh(grid.Grid(9, 8))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment() | QUIET, timeout=100, check=False)  # fmt: skip
    assert (
        "mesh batch=9,model=8 is of 72 devices: 72 replicas on a CPU are too many; ask for 64 or fewer" in done.stderr
    )


def test_a_grid_is_read() -> None:
    assert parse("batch=2, model=4") == Grid(2, 4)
    assert (parse("batch=2,model=4").devices, str(Grid(1, 3))) == (8, "batch=1,model=3")


@pytest.mark.parametrize("text", ["", "2x2", "batch=2", "model=2,batch=2", "batch=-1,model=2", "batch=2,model=99999"])
def test_what_is_no_grid_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is no mesh; write it as batch=2,model=2"):
        parse(text)


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one device, and batch=0,model=2 none"):
        parse("batch=0,model=2")
