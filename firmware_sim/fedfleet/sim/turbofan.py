"""Remaining life of jet engines: NASA C-MAPSS FD001 (Saxena et al. 2008), one engine one device.

Each line is one cycle of one engine: `unit cycle setting1..3 sensor1..21`. What is to be told is the number of cycles
left, capped at 125 because a healthy engine does not show its age (Heimes 2008), from a window of the last 30 cycles of
the 14 sensors that vary at all.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples

CAP = 125
WINDOW = 30
SENSORS = (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)
COLUMNS = 26
FIRST_SENSOR = 5
MAX_BYTES = 64 * 2**20


def read(folder: Path) -> tuple[Examples, npt.NDArray[np.int64], Examples]:
    """Training windows, the engine (from 0) of each, and the last window of each test engine.

    x float32[N, 30, 14], in 0..1 over the training engines; y float32[N, 1], cycles left / 125. DataError if malformed.
    """
    train = _engines(folder / "train_FD001.txt")
    tests = _engines(folder / "test_FD001.txt")
    left = _lives(folder / "RUL_FD001.txt", len(tests))
    low = np.min([engine.min(axis=0) for engine in train], axis=0)
    span = np.max([engine.max(axis=0) for engine in train], axis=0) - low
    # A sensor that never moved in training says nothing; dividing by 1 leaves it at 0 there.
    span[span == 0] = 1
    windows = [_windows((engine - low) / span) for engine in train]
    lives = [np.arange(len(found))[::-1] for found in windows]
    last = [_windows((engine - low) / span)[-1:] for engine in tests]
    groups = np.repeat(np.arange(len(train)), [len(found) for found in windows])
    return _examples(windows, np.concatenate(lives)), groups, _examples(last, left)


def _examples(windows: list[npt.NDArray[np.float64]], left: npt.NDArray[np.int64]) -> Examples:
    """Windows and cycles left as examples."""
    return Examples(
        np.concatenate(windows).astype(np.float32), (np.minimum(left, CAP) / CAP).astype(np.float32)[:, None]
    )


def _windows(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """All windows of one engine, [N, 30, 14], oldest first; a short life is padded in front by its first cycle."""
    short = max(WINDOW - len(rows), 0)
    rows = np.concatenate([np.repeat(rows[:1], short, axis=0), rows])
    return np.lib.stride_tricks.sliding_window_view(rows, WINDOW, axis=0).swapaxes(1, 2)


def _engines(path: Path) -> list[npt.NDArray[np.float64]]:
    """The chosen sensors of each engine, float64[cycles, 14], in the order of the file."""
    engines: list[list[list[float]]] = []
    for number, line in enumerate(_lines(path), 1):
        values = _numbers(line, path, number, COLUMNS)
        unit, cycle = values[:2]
        if (unit, cycle) == (len(engines) + 1, 1):
            engines.append([])
        elif not engines or (unit, cycle) != (len(engines), len(engines[-1]) + 1):
            raise DataError(f"{path} line {number}: unit {unit:g} cycle {cycle:g} is out of order; get the file again")
        engines[-1].append([values[FIRST_SENSOR + sensor - 1] for sensor in SENSORS])
    return [np.array(engine) for engine in engines]


def _lives(path: Path, engines: int) -> npt.NDArray[np.int64]:
    """Cycles left of each test engine, int64[engines]."""
    values = [_numbers(line, path, number, 1)[0] for number, line in enumerate(_lines(path), 1)]
    if len(values) != engines:
        raise DataError(f"{path} has {len(values)} lines but test_FD001.txt has {engines} engines: get both again")
    for number, value in enumerate(values, 1):
        if value < 0 or value != int(value):
            raise DataError(f"{path} line {number}: {value:g} is not a number of cycles; get the file again")
    return np.array(values).astype(np.int64)


def _lines(path: Path) -> list[str]:
    """The lines of a text file of bounded size that hold anything, of which there is at least one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES} bytes: it is not the file of that name")
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): unpack CMAPSSData.zip there") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{path} is empty: unpack CMAPSSData.zip there again")
    return lines


def _numbers(line: str, path: Path, number: int, columns: int) -> list[float]:
    """The finite numbers of a line, as many as there have to be."""
    fields = line.split()
    try:
        values = [float(field) for field in fields]
    except ValueError as error:
        raise DataError(f"{path} line {number}: {error}; get the file again") from None
    if len(values) != columns:
        raise DataError(f"{path} line {number} has {len(values)} columns instead of {columns}: get the file again")
    if not all(map(math.isfinite, values)):
        column = next(at for at, value in enumerate(values, 1) if not math.isfinite(value))
        raise DataError(
            f"{path} line {number}, column {column}: {fields[column - 1]} is not finite; get the file again"
        )
    return values
