"""Tables of numbers: a csv file with a header row, read to the last number or refused by line, column and name."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedfleet.wire.errors import DataError

MAX_BYTES = 2**31
FLOAT32_MAX = float(np.finfo(np.float32).max)


def columns(path: Path, label: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """All columns but that of the label, and that one; where no label is named, all, and nothing."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, skipinitialspace=True, strict=True)
        lines = ((rows.line_num, row) for row in rows if row)
        try:
            names = _header(next(rows, []), path, label)
            features, labels = _values(lines, path, names, names.index(label) if label else None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} near line {rows.line_num} is not csv in UTF-8: {error}") from error
    x = np.frombuffer(features, np.float32).reshape(-1, len(names) - bool(label))
    return x, np.frombuffer(labels, np.float64)


def _header(names: list[str], path: Path, label: str) -> list[str]:
    """The column names, once it is sure that each has one of its own and that the label is among them."""
    names = [name.strip() for name in names]
    if label not in names and (label or not names):
        raise DataError(f"{path} has no column {label!r}: its columns are {', '.join(names[:50]) or 'none'}")
    for at, name in enumerate(names):
        if not name or name in names[:at]:
            raise DataError(f"{path} line 1, column {at + 1}: name {name!r} is empty or used twice; name each column")
    if names == [label]:
        raise DataError(f"{path} has only the label column {label!r}: add columns to learn from")
    return names


def _values(
    rows: Iterable[tuple[int, list[str]]], path: Path, names: list[str], label: int | None
) -> tuple[array[float], array[float]]:
    """Features (32 bit, row after row) and labels (64 bit) of all rows that are not blank."""
    features, labels = array("f"), array("d")
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(f"{path} line {line} has {len(row)} fields but the header names {len(names)} columns")
        values = [_number(text, path, line, name) for text, name in zip(row, names)]
        if label is not None:
            labels.append(values.pop(label))
        features.extend(values)
        if len(features) * 4 > MAX_BYTES:
            raise DataError(f"{path} line {line}: more than {MAX_BYTES} bytes of numbers; split the file")
    return features, labels


def _number(text: str, path: Path, line: int, name: str) -> float:
    """One field as a number that fits float32; DataError with file, line and column otherwise."""
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{path} line {line}, column {name!r}: {text[:40]!r} is not a number") from None
    if not abs(value) <= FLOAT32_MAX:
        raise DataError(f"{path} line {line}, column {name!r}: {value} is not finite in 32 bits; drop or fill that row")
    return value
