"""C-MAPSS: windows, lives and engines are those of the files, and a malformed file is refused by its line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedfleet.sim.datasets import load
from fedfleet.sim.turbofan import CAP, SENSORS
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import check

DATA = Path(os.environ.get("FEDFLEET_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
TRAIN = (31, 160, 12)
TESTS = (30, 8, 45)
LEFT = (7, 200, 0)


def line(unit: int, cycle: int) -> str:
    """Sensor s of a cycle reads 1000 unit + 10 cycle + s, but sensor 21 never moves."""
    sensors = [1000 * unit + 10 * cycle + sensor for sensor in range(1, 21)]
    return " ".join(map(str, [unit, cycle, 0.1, 0.2, 100, *sensors, 5])) + "  \n"


def write(folder: Path) -> str:
    for name, lives in (("train", TRAIN), ("test", TESTS)):
        lines = [line(unit, cycle) for unit, life in enumerate(lives, 1) for cycle in range(1, life + 1)]
        (folder / f"{name}_FD001.txt").write_text("".join(lines))
    (folder / "RUL_FD001.txt").write_text("".join(f"{left} \n" for left in LEFT))
    return f"turbofan:{folder}"


def refused(spec: str, *words: str) -> None:
    with pytest.raises(DataError) as error:
        load(spec, 0)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_every_window_of_every_training_engine(tmp_path: Path) -> None:
    found = load(write(tmp_path), 0)
    assert (found.name, found.classes, found.metric, found.target_scale) == ("turbofan", None, "rmse", 125.0)
    check(found.train)
    check(found.test)
    assert found.groups is not None and found.groups.tolist() == [0] * 2 + [1] * 131 + [2]
    assert found.train.x.shape == (134, 30, 14)
    cycles = found.train.y[:, 0] * CAP
    assert np.allclose(cycles, [1, 0, *[125] * 6, *range(124, -1, -1), 0], atol=1e-4)


def test_windows_hold_the_scaled_sensors_oldest_first(tmp_path: Path) -> None:
    found = load(write(tmp_path), 0)
    # Over all training engines, sensor s goes from 1010 + s to 3600 + s.
    low, high = 1010, 2000 + 160 * 10
    for row, unit, last in ((0, 1, 30), (1, 1, 31), (2, 2, 30), (132, 2, 160)):
        want = (1000 * unit + 10 * np.arange(last - 29, last + 1) - low) / (high - low)
        for column in range(13):
            assert np.allclose(found.train.x[row, :, column], want, atol=1e-6)
        assert (found.train.x[row, :, 13] == 0).all()
    assert found.train.x.min() == 0 and found.train.x.max() == 1


def test_only_the_sensors_that_vary_are_taken(tmp_path: Path) -> None:
    spec = write(tmp_path)
    path = tmp_path / "train_FD001.txt"
    before = load(spec, 0).train.x
    rows = [text.split() for text in path.read_text().splitlines()]
    for sensor in range(1, 22):
        changed = [[*row[: sensor + 4], "7" if at else "8", *row[sensor + 5 :]] for at, row in enumerate(rows)]
        path.write_text("\n".join(" ".join(row) for row in changed))
        differs = bool((load(spec, 0).train.x != before).any())
        assert differs == (sensor in SENSORS)


def test_a_short_life_is_padded_in_front(tmp_path: Path) -> None:
    found = load(write(tmp_path), 0)
    short = found.train.x[133]
    assert (short[:19] == short[0]).all() and (short[19:, :13] > short[18:-1, :13]).all()
    assert (found.test.x[1, :23] == found.test.x[1, 0]).all() and found.test.x[1, 23, 0] > found.test.x[1, 22, 0]


def test_test_engines_end_where_they_end(tmp_path: Path) -> None:
    found = load(write(tmp_path), 0)
    assert found.test.x.shape == (3, 30, 14)
    assert np.allclose(found.test.y[:, 0] * CAP, [7, 125, 0], atol=1e-4)
    assert np.allclose(found.test.x[2, :, 0], (3000 + 10 * np.arange(16, 46) - 1010) / 2590, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        (
            "train",
            lambda rows: [*rows[:4], rows[4].removesuffix(" 5  "), *rows[5:]],
            "line 5 has 25 columns instead of 26",
        ),
        ("train", lambda rows: [*rows[:4], "", *rows[4:]], "line 5 has 0 columns"),
        ("train", lambda rows: [*rows[:9], rows[9].replace("0.2", "x"), *rows[10:]], "line 10: could not convert"),
        ("test", lambda rows: [*rows[:9], rows[9].replace("0.2", "nan"), *rows[10:]], "line 10, column 4: nan"),
        ("test", lambda rows: [*rows[:3], *rows[4:]], "line 4: unit 1 cycle 5 is out of order"),
        ("test", lambda rows: rows[30:], "line 1: unit 2 cycle 1 is out of order"),
        ("test", lambda rows: [], "is empty"),
        ("RUL", lambda rows: rows[:-1], "has 2 lines but test_FD001.txt has 3 engines"),
        ("RUL", lambda rows: [*rows[:2], "-1"], "line 3: -1 is not a number of cycles"),
        ("RUL", lambda rows: [*rows[:2], "1.5"], "line 3: 1.5 is not a number of cycles"),
        ("RUL", lambda rows: [*rows[:2], "1 2"], "line 3 has 2 columns instead of 1"),
        ("RUL", lambda rows: [*rows[:2], "é"], "cannot be read"),
    ],
)
def test_malformed_files(tmp_path: Path, file: str, spoil: object, words: str) -> None:
    spec = write(tmp_path)
    path = tmp_path / f"{file}_FD001.txt"
    assert callable(spoil)
    path.write_text("\n".join(spoil(path.read_text().splitlines())), encoding="utf-8")
    refused(spec, f"{file}_FD001.txt", words)


def test_missing_and_oversized_files(tmp_path: Path) -> None:
    refused(f"turbofan:{tmp_path}", "train_FD001.txt", "No such file")
    spec = write(tmp_path)
    with (tmp_path / "RUL_FD001.txt").open("wb") as file:
        file.truncate(2**30)
    refused(spec, "RUL_FD001.txt", "larger than")


def test_blank_lines_at_the_end_are_no_matter(tmp_path: Path) -> None:
    spec = write(tmp_path)
    with (tmp_path / "RUL_FD001.txt").open("a") as file:
        file.write("\n \n")
    assert len(load(spec, 0).test.y) == 3


def test_real_turbofan() -> None:
    if not (DATA / "cmapss").is_dir():
        pytest.skip(f"no cmapss in {DATA}: set FEDFLEET_DATA")
    found = load(f"turbofan:{DATA / 'cmapss'}", 0)
    assert found.train.x.shape == (17731, 30, 14) and found.test.x.shape == (100, 30, 14)
    assert found.groups is not None and len(np.unique(found.groups)) == 100
    assert (found.train.x.min(), found.train.x.max()) == (0, 1)
    assert (found.train.x.min(axis=(0, 1)) == 0).all() and (found.train.x.max(axis=(0, 1)) == 1).all()
    assert round(float(found.test.y[0, 0]) * CAP) == 112 and found.test.y.max() == 1
