"""Data sets: each spec gives the examples its files hold, and a file that is not right is refused in one line."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.sim import mnist
from fedfleet.sim.datasets import Dataset, holdout, load
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples, check

DATA = Path(os.environ.get("FEDFLEET_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def real(name: str) -> Path:
    """A folder of real data; without it the test is skipped."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}: set FEDFLEET_DATA")
    return DATA / name


def refused(spec: str, *words: str) -> None:
    with pytest.raises(DataError) as error:
        load(spec, 0)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def digest(dataset: Dataset) -> str:
    arrays = (*dataset.train, *dataset.test)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def unique_rows(*parts: Examples) -> int:
    return len({(x.tobytes(), y.tobytes()) for part in parts for x, y in zip(*part)})


# what is held out


@given(st.integers(2, 200), st.integers(1, 6), st.integers(0, 99))
def test_a_fifth_is_held_out_in_proportion(total: int, classes: int, seed: int) -> None:
    n = np.arange(total)
    train, test = holdout(Examples(n[:, None].astype(np.float32), (n % classes).astype(np.int32)), seed)
    assert sorted([*train.x[:, 0].tolist(), *test.x[:, 0].tolist()]) == n.tolist()
    assert (train.x[:, 0] % classes == train.y).all() and (test.x[:, 0] % classes == test.y).all()
    assert max(1, total // 5) <= len(test.y) <= total // 5 + 1
    for label in range(min(classes, total)):
        amount = int((n % classes == label).sum())
        assert abs(int((test.y == label).sum()) - amount / 5) <= 1


def test_the_seed_decides_what_is_held_out() -> None:
    n = np.arange(50, dtype=np.float32)[:, None]
    tests = {tuple(holdout(Examples(n, n), seed)[1].x[:, 0].tolist()) for seed in (1, 1, 2, 3)}
    assert len(tests) == 3
    with pytest.raises(DataError, match="1 example cannot"):
        holdout(Examples(n[:1], n[:1]), 0)


# digits and own files


def test_digits() -> None:
    found = load("digits", 0)
    assert (found.name, found.classes, found.groups, found.metric, found.target_scale) == (
        "digits",
        10,
        None,
        "accuracy",
        1.0,
    )
    check(found.train, classes=10)
    check(found.test, classes=10)
    assert found.train.x.shape == (1438, 8, 8, 1) and found.test.x.shape == (359, 8, 8, 1)
    assert (found.train.x.min(), found.train.x.max()) == (0, 1)
    assert np.ptp(np.bincount(found.test.y)) <= 3
    assert unique_rows(found.train, found.test) == unique_rows(found.train) + unique_rows(found.test)
    assert digest(found) == digest(load("digits", 0)) == "17f3f40b745607a6"
    assert digest(load("digits", 1)) != digest(found)


def test_own_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=np.arange(20.0).reshape(10, 2), y=np.arange(10) % 4)
    found = load(f"npz:{tmp_path / 'own.npz'}", 0)
    assert (found.name, found.classes, found.metric, len(found.train.y), len(found.test.y)) == (
        "own",
        4,
        "accuracy",
        8,
        2,
    )
    (tmp_path / "own.csv").write_text("a,b\n" + "".join(f"{n},{n / 3}\n" for n in range(10)))
    found = load(f"csv:{tmp_path / 'own.csv'}?label=b", 0)
    assert (found.classes, found.metric, found.target_scale, found.groups) == (None, "rmse", 3.0, None)
    targets = {round(float(y[0]) * found.target_scale, 4) for y in [*found.train.y, *found.test.y]}
    assert targets == {round(n / 3, 4) for n in range(10)}
    assert sorted([*found.train.x[:, 0], *found.test.x[:, 0]]) == list(range(10))


def test_refused_specs(tmp_path: Path) -> None:
    refused("cifar", "mnist:", "turbofan:", "npz:", "csv:", "digits")
    refused(f"mnist:{tmp_path}?x=1", "no options")
    refused(f"npz:{tmp_path / 'no.npz'}", "no.npz")
    (tmp_path / "big.csv").write_text("a,y\n1,0\n1,99999999\n1,0\n")
    refused(f"csv:{tmp_path / 'big.csv'}?label=y", "label 99999999")


def test_importing_data_sets_is_cheap() -> None:
    code = "import sys, fedfleet.sim.split; print([m for m in ('sklearn', 'scipy', 'tensorflow') if m in sys.modules])"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# mnist


def idx(array: npt.NDArray[Any]) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, prefix: str, count: int, packed: bool = False) -> None:
    pixels = np.arange(count * 6).reshape(count, 2, 3) % 256
    for name, array in (("images-idx3", pixels), ("labels-idx1", np.arange(count) % 3)):
        path = folder / f"{prefix}-{name}-ubyte{'.gz' * packed}"
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_with_its_own_test_part(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path, "train", 50, packed)
    write_mnist(tmp_path, "t10k", 7, packed)
    found = load(f"mnist:{tmp_path}", 0)
    assert (found.name, found.classes, found.metric) == ("mnist", 3, "accuracy")
    assert found.train.x.shape == (50, 2, 3, 1) and found.test.x.shape == (7, 2, 3, 1)
    assert (
        found.train.x[0, :, :, 0].tolist() == (np.arange(6, dtype=np.float32).reshape(2, 3) / np.float32(255)).tolist()
    )
    assert found.test.y.tolist() == [0, 1, 2, 0, 1, 2, 0] and found.train.y.dtype == np.int32


@pytest.mark.parametrize("prefix", ["train", "t10k"])
def test_mnist_with_one_part_is_split(tmp_path: Path, prefix: str) -> None:
    write_mnist(tmp_path, prefix, 30)
    found = load(f"mnist:{tmp_path}", 0)
    assert (len(found.train.y), len(found.test.y)) == (24, 6)
    assert unique_rows(found.train, found.test) == 30


def test_mnist_refuses(tmp_path: Path) -> None:
    spec = f"mnist:{tmp_path}"
    images, labels = (tmp_path / f"t10k-{name}-ubyte" for name in ("images-idx3", "labels-idx1"))
    refused(spec, str(tmp_path), "t10k-images-idx3-ubyte")
    images.write_bytes(idx(np.zeros((4, 2, 2))))
    refused(spec, "lacks t10k-labels-idx1-ubyte")
    labels.write_bytes(idx(np.zeros(3)))
    refused(spec, "4 t10k images but 3 labels")
    good = idx(np.zeros(4))
    for bad, word in (
        (good[:7], "0x00000801"),
        (b"", "0x00000801"),
        (idx(np.zeros((4, 1, 1))), "0x00000801"),
        (good[:-1], "shorter"),
        (good + b"x", "longer"),
        (struct.pack(">II", 0x0801, 2**32 - 1), "at most"),
        (struct.pack(">II", 0x0801, 0), "[0]"),
    ):
        labels.write_bytes(bad)
        refused(spec, "labels-idx1", word)
    labels.write_bytes(good)
    for shape in ((4, 2**31, 2**31), (4, 0, 9), (2**20, 1024, 1025)):
        images.write_bytes(struct.pack(">IIII", 0x0803, *shape))
        refused(spec, "images-idx3", f"{list(shape)}", "at most")


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-9], lambda raw: b"no gzip", lambda raw: raw[:-8] + b"\xff" * 8])
def test_mnist_refuses_gzip_that_is_not_intact(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    write_mnist(tmp_path, "t10k", 30, packed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    refused(f"mnist:{tmp_path}", "images-idx3", "get it again")


def test_mnist_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 30)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(30)) + bytes(2**24)))
    refused(f"mnist:{tmp_path}", "longer")


def test_real_mnist() -> None:
    found = load(f"mnist:{real('mnist10k')}", 0)
    assert found.train.x.shape == (8000, 28, 28, 1) and found.test.x.shape == (2000, 28, 28, 1)
    assert found.classes == 10 and (found.train.x.min(), found.train.x.max()) == (0, 1)
    assert digest(found) == "a413d7d4a71dfdec"
    assert mnist.read(real("mnist10k"))[0].y[:5].tolist() == [7, 2, 1, 0, 4]
