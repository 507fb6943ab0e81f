"""Images in IDX files, plain or gzipped: MNIST and the sets that copied its format (yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples

IMAGES, LABELS = 0x0803, 0x0801
MAX_BYTES = 2**30


def read(folder: Path) -> list[Examples]:
    """The parts that the folder holds, train before t10k: x float32[N, rows, columns, 1] in 0..1, y labels."""
    found = [part for prefix in ("train", "t10k") if (part := _part(folder, prefix)) is not None]
    if not found:
        raise DataError(f"{folder} holds neither train-images-idx3-ubyte nor t10k-images-idx3-ubyte (or .gz)")
    return found


def _part(folder: Path, prefix: str) -> Examples | None:
    """Images and labels of one part; None when the folder has neither."""
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    paths = [next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None) for name in names]
    if paths == [None, None]:
        return None
    if None in paths:
        raise DataError(f"{folder} lacks {names[paths.index(None)]}: images and labels come in pairs")
    images, labels = (_idx(path, magic) for path, magic in zip(paths, (IMAGES, LABELS)) if path)
    if len(images) != len(labels):
        raise DataError(f"{folder} has {len(images)} {prefix} images but {len(labels)} labels: get both files again")
    return Examples(images[..., None].astype(np.float32) / np.float32(255), labels.astype(np.int32))


def _idx(path: Path, magic: int) -> npt.NDArray[np.uint8]:
    """The array of one IDX file, whose size is known to be right and bounded before it is read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _array(file, path, magic)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): get it again") from error


def _array(file: BufferedReader | gzip.GzipFile, path: Path, magic: int) -> npt.NDArray[np.uint8]:
    """Header and bytes of an open IDX file of `magic`, whose low byte is the number of dimensions."""
    rank = magic & 0xFF
    head = file.read(4 + 4 * rank)
    if len(head) < 4 + 4 * rank or head[:4] != struct.pack(">I", magic):
        raise DataError(f"{path} does not start with {magic:#010x}: it is not the IDX file its name says")
    shape = struct.unpack(f">{rank}I", head[4:])
    size = math.prod(shape)
    if not 0 < size <= MAX_BYTES:
        raise DataError(f"{path} says it holds {list(shape)} items: more than 0 and at most {MAX_BYTES} bytes are read")
    data = file.read(size + 1)
    if len(data) != size:
        raise DataError(f"{path} is {'shorter' if len(data) < size else 'longer'} than its header says: get it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
