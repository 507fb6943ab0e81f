"""What goes through the pipes between us and the process that has TensorFlow Federated: a header, then arrays.

Each part has its length before it. Both ends are our own code, on one machine, started by each other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Message = tuple[dict[str, Any], list[Array]]
LENGTH = struct.Struct("<I")


def send(pipe: IO[bytes], header: Mapping[str, Any], arrays: Iterable[Array] = (), count: int = 0) -> None:
    """Write `header`, and the `count` arrays, each when it comes."""
    _say(pipe, {**header, "count": count})
    for array in arrays:
        _say(pipe, {"dtype": array.dtype.str, "shape": array.shape})
        pipe.write(np.ascontiguousarray(array).tobytes())
    pipe.flush()


def receive(pipe: IO[bytes]) -> Message | None:
    """Return the next header and its arrays; None at the end of the pipe, also in the middle of a message."""
    header = _hear(pipe)
    if header is None:
        return None
    arrays = []
    for _ in range(header["count"]):
        if (form := _hear(pipe)) is None:
            return None
        size = np.dtype(form["dtype"]).itemsize * int(np.prod(form["shape"], dtype=np.int64))
        if (data := _exactly(pipe, size)) is None:
            return None
        arrays.append(np.frombuffer(data, form["dtype"]).reshape(form["shape"]))
    return header, arrays


def _say(pipe: IO[bytes], header: Mapping[str, Any]) -> None:
    text = json.dumps(header).encode()
    pipe.write(LENGTH.pack(len(text)) + text)


def _hear(pipe: IO[bytes]) -> dict[str, Any] | None:
    prefix = _exactly(pipe, LENGTH.size)
    text = prefix and _exactly(pipe, LENGTH.unpack(prefix)[0])
    return dict(json.loads(text)) if text else None


def _exactly(pipe: IO[bytes], size: int) -> bytes | None:
    data = pipe.read(size)
    return data if len(data) == size else None
