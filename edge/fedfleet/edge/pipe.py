"""The pipe between the agent and its training child: frames with their length before them.

A file of its own, since the child needs nothing else of what the agent starts it with, and each import is memory.
"""

from __future__ import annotations

import struct
from typing import IO

LENGTH = struct.Struct("<I")


def send(pipe: IO[bytes], frame: bytes) -> None:
    """Write one frame with its length before it."""
    pipe.write(LENGTH.pack(len(frame)) + frame)
    pipe.flush()


def receive(pipe: IO[bytes]) -> bytes | None:
    """Return the next frame, None at the end of the pipe; takes short reads, so that a pipe may be unbuffered."""
    prefix = _exactly(pipe, LENGTH.size)
    return _exactly(pipe, LENGTH.unpack(prefix)[0]) if prefix else None


def _exactly(pipe: IO[bytes], size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = pipe.read(size - len(data))
        if not more:
            return None
        data += more
    return data
