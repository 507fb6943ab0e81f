"""What a model learns from: examples in memory, read from a file that its owner names, and shuffled alike everywhere.

`npz:FILE` and `csv:FILE?label=COL` are read here for the device and the cloud alike. Files come from owners, so they
are bounded and checked before anything is allocated, nothing is unpickled or evaluated, and each refusal says where.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fedfleet.wire.errors import DataError
from fedfleet.wire.tables import columns

if TYPE_CHECKING:
    from zipfile import ZipFile

T = TypeVar("T")
Labels = npt.NDArray[np.int32] | npt.NDArray[np.float32]

MAX_BYTES = 2**31
MAX_NPY_HEADER = 10_000
NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
INT32_MAX = 2**31 - 1
NPY_HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'([^']{1,16})',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d, ]{0,200})\),?\s*\}\s*"
)


class Examples(NamedTuple):
    """Examples in memory: x float32[N, ...]; y int32[N] (class labels) or float32[N, k] (regression targets)."""

    x: npt.NDArray[np.float32]
    y: Labels


def stream(*key: int | str) -> np.random.PCG64:
    """A source of raw 64-bit words named by `key`, the same on every platform and numpy version (NEP 19)."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.PCG64(int.from_bytes(digest[:16], "little"))


def permutation(count: int, *key: int | str) -> npt.NDArray[np.int64]:
    """A random order of range(count) named by `key`, the same on every platform and numpy version.

    It is the stable argsort of PCG64's raw words: numpy promises that stream for ever, but not what
    `Generator.permutation` makes of it.
    """
    return np.argsort(stream(*key).random_raw(count), kind="stable").astype(np.int64)


def take(examples: Examples, index: npt.NDArray[np.integer]) -> Examples:
    """Copies of the examples at `index`, in that order."""
    return Examples(examples.x[index], examples.y[index])


def check(examples: Examples, *, classes: int | None = None) -> None:
    """Raise DataError unless the examples can be trained on; with `classes`, y must be labels in 0..classes-1."""
    x, y = examples
    _shaped(x)
    if (y.dtype, y.ndim) not in ((np.dtype(np.int32), 1), (np.dtype(np.float32), 2)) or 0 in y.shape[1:]:
        raise DataError(f"y must be int32[N] labels or float32[N, k] targets, not {y.dtype}{list(y.shape)}: convert it")
    if len(x) != len(y):
        raise DataError(f"x has {len(x)} rows but y has {len(y)}: each example needs one of both")
    check_inputs(x)
    _finite("y", y)
    _labels_fit(y, classes)


def check_inputs(x: npt.NDArray[np.float32]) -> None:
    """Raise DataError unless a model can be given `x`."""
    _shaped(x)
    if len(x) == 0:
        raise DataError("there are no examples: collect some, or name another file")
    _finite("x", x)


def _shaped(x: npt.NDArray[np.float32]) -> None:
    if x.dtype != np.float32 or x.ndim < 2 or 0 in x.shape[1:]:
        raise DataError(f"x must be float32[N, ...], not {x.dtype}{list(x.shape)}: convert or reshape it")


def _finite(name: str, values: npt.NDArray[np.float32] | Labels) -> None:
    """Raise DataError at the first NaN or infinity, by row and column counted from 0."""
    finite = np.isfinite(values)
    if finite.all():
        return
    row, *column = (int(i) for i in np.unravel_index(int(np.argmin(finite)), values.shape))
    where = column[0] if len(column) == 1 else tuple(column)
    bad = values[(row, *column)]
    raise DataError(f"{name} row {row}, column {where} (from 0) is {bad}: drop that row or fill the gap")


def _labels_fit(y: Labels, classes: int | None) -> None:
    """Raise DataError unless labels lie in 0..classes-1 (no upper end when None)."""
    if y.dtype != np.int32:
        if classes is not None:
            raise DataError(f"y holds regression targets, but the model tells {classes} classes apart: give labels")
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or (classes is not None and high >= classes):
        bad = low if low < 0 else high
        row = int(np.argmax(y == bad))
        last = "" if classes is None else classes - 1
        raise DataError(f"y row {row} (from 0) has label {bad}, outside 0..{last}: relabel, or use a model that has it")


def parse(spec: str, known: Sequence[str]) -> tuple[str, Path, dict[str, str]]:
    """`scheme:FILE?key=value&key=value` as its three parts; DataError for a scheme that is not in `known`."""
    scheme, colon, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    if scheme not in known or not colon or not name:
        raise DataError(f"data {spec!r} is not of a known kind: write one of {', '.join(f'{k}:...' for k in known)}")
    pairs = [part.partition("=") for part in query.split("&") if part]
    return scheme, Path(name), {key: value for key, _, value in pairs}


def read(spec: str) -> Examples:
    """The checked examples that `npz:FILE` or `csv:FILE?label=COL[&task=regression]` names; DataError if unusable."""
    return read_file(*_parsed(spec))


def read_inputs(spec: str) -> npt.NDArray[np.float32]:
    """The checked x alone that `npz:FILE` or `csv:FILE[?label=COL]` names, labels not needed; DataError if unusable."""
    scheme, path, options = _parsed(spec)

    def load() -> npt.NDArray[np.float32]:
        return _floats(*_npz(path, "x")) if scheme == "npz" else columns(path, options.get("label", ""))[0]

    return _checked(path, load, check_inputs)


def _parsed(spec: str) -> tuple[str, Path, dict[str, str]]:
    scheme, path, options = parse(spec, ("npz", "csv"))
    unknown = sorted(options.keys() - ({"label", "task"} if scheme == "csv" else set()))
    if unknown:
        raise DataError(f"data {spec!r} has an unknown option {unknown[0]!r}: csv takes label and task, npz takes none")
    if options.get("task", "regression") != "regression":
        raise DataError(f"data {spec!r} asks for task {options['task']!r}: the only one to ask for is regression")
    return scheme, path, options


def read_file(scheme: str, path: Path, options: dict[str, str]) -> Examples:
    """The checked examples in a `csv` or `npz` file whose name may have any characters; DataError if unusable."""

    def load() -> Examples:
        return _read_csv(path, options) if scheme == "csv" else _arrays(path)

    return _checked(path, load, check)


def _checked(path: Path, load: Callable[[], T], check: Callable[[T], None]) -> T:
    try:
        found = load()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the name and the rights") from error
    try:
        check(found)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return found


def _npz(path: Path, *names: str) -> list[npt.NDArray[np.generic]]:
    """Arrays of those names in an npz file."""
    # here and not at the top: a board that trains reads no archive, and this takes 1.5 MiB of it
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            return [_read_npy(archive, path, name) for name in names]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is not an intact npz file ({error}): write it again with numpy.savez") from error


def _arrays(path: Path) -> Examples:
    x, y = _npz(path, "x", "y")
    return convert(x, y, str(path))


def convert(x: npt.NDArray[np.generic], y: npt.NDArray[np.generic], where: str) -> Examples:
    """Arrays of numbers as examples: integer y becomes labels, other y targets; DataError that names `where`."""
    return Examples(_floats(x), _labels(y, where))


def _floats(x: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def _read_npy(archive: ZipFile, path: Path, name: str) -> npt.NDArray[np.generic]:
    """One plain numeric array of an archive, its size proven against its header before it is read."""
    names = archive.namelist()
    if f"{name}.npy" not in names:
        known = ", ".join(n.removesuffix(".npy") for n in names[:8])
        raise DataError(f"{path} has no array {name!r}, only {known}: write it with numpy.savez(FILE, x=..., y=...)")
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        dtype, fortran, shape = _npy_header(file, f"{path} array {name!r}")
        size = info.file_size - file.tell()
        if size > MAX_BYTES or math.prod(shape) * dtype.itemsize != size:
            raise DataError(f"{path} array {name!r} holds {size} bytes for {dtype}{list(shape)}, limit {MAX_BYTES}")
        values = np.frombuffer(file.read(size), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _npy_header(file: IO[bytes], where: str) -> tuple[np.dtype[np.generic], bool, tuple[int, ...]]:
    """Dtype, order and shape that stand at the head of an npy file; the format is numpy's NEP 1."""
    lead = file.read(8)
    width = 2 if lead[6:7] == b"\x01" else 4
    length = int.from_bytes(file.read(width), "little")
    if lead[:6] != b"\x93NUMPY" or length > MAX_NPY_HEADER:
        raise DataError(f"{where} is not in numpy's format: write the file with numpy.savez")
    match = NPY_HEADER.fullmatch(file.read(length))
    kind = match.group(1).decode("latin-1") if match else "a record"
    if match is None or kind[:1] not in "<>|=" or kind[1:] not in NUMBERS:
        raise DataError(f"{where} holds {kind!r}, not plain numbers: save it as float32 or as integers")
    shape = tuple(int(n) for n in match.group(3).split(b",") if n.strip())
    return np.dtype(kind), match.group(2) == b"True", shape


def _labels(y: npt.NDArray[np.generic], where: str) -> Labels:
    """Integers [N] or [N, 1] as int32 labels, floats [N] or [N, k] as float32 targets."""
    if y.dtype.kind == "f":
        targets = y.astype(np.float32)
        return targets[:, None] if targets.ndim == 1 else targets
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{where} y has integers in shape {list(y.shape)}: give labels [N], or floats for targets")
    if y.size and (int(y.min()) < 0 or int(y.max()) > INT32_MAX):
        raise DataError(f"{where} y goes from {y.min()} to {y.max()}: labels start at 0; give floats for targets")
    return y.astype(np.int32)


def _read_csv(path: Path, options: dict[str, str]) -> Examples:
    """The columns of a csv file with a header row; all but the label column are features, in file order."""
    if not options.get("label"):
        raise DataError(f"{path} needs its label column named: write csv:{path}?label=COLUMN")
    x, labels = columns(path, options["label"])
    return Examples(x, _csv_labels(labels, path, options))


def _csv_labels(values: npt.NDArray[np.float64], path: Path, options: dict[str, str]) -> Labels:
    """Labels when all are whole numbers from 0 up and nobody asked for regression, else targets [N, 1]."""
    if "task" in options or (values != np.floor(values)).any() or (values < 0).any():
        return values.astype(np.float32)[:, None]
    if values.size and values.max() > INT32_MAX:
        raise DataError(
            f"{path} column {options['label']!r}: {values.max():.0f} is no class label; add &task=regression"
        )
    return values.astype(np.int32)
