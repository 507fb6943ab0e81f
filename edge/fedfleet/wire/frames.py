"""Frames: `magic | header length | JSON header | raw bytes`, every length bounded before anything is allocated.

The layout is written down, with golden frames, in `docs/wire.md`, so that a second client needs no Python.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

from fedfleet.wire.errors import FrameError

MAGIC = b"FLT1"
PREFIX = struct.Struct("<4sI")
MAX_HEADER = 16 * 1024
MAX_BODY = 256 * 1024  # one packet: a chunk is 64 KiB, brokers of every make take four of them
MAX_DEPTH = 4


def pack(header: Mapping[str, Any], body: bytes | memoryview = b"") -> bytes:
    """Return the frame of `header` and `body`; raises FrameError where `unpack` would refuse it."""
    text = ENCODER.encode(header).encode()
    if len(text) > MAX_HEADER or len(body) > MAX_BODY:
        raise FrameError(f"a frame of {len(text)}+{len(body)} bytes is over the limit {MAX_HEADER}+{MAX_BODY}")
    return PREFIX.pack(MAGIC, len(text)) + text + bytes(body)


def unpack(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and body of `frame`; raises FrameError for anything else than a whole frame."""
    if len(frame) > PREFIX.size + MAX_HEADER + MAX_BODY:
        raise FrameError(f"frame of {len(frame)} bytes is oversized")
    if len(frame) < PREFIX.size:
        raise FrameError(f"frame of {len(frame)} bytes is truncated: the prefix alone has {PREFIX.size}")
    magic, length = PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise FrameError(f"magic {magic!r} is not {MAGIC!r}: not a fedfleet frame of this version")
    end = PREFIX.size + length
    if length > MAX_HEADER or end > len(frame):
        raise FrameError(
            f"header length {length} lies: the frame has {len(frame) - PREFIX.size} bytes, limit {MAX_HEADER}"
        )
    body = frame[end:]
    if len(body) > MAX_BODY:
        raise FrameError(f"body of {len(body)} bytes is oversized, limit {MAX_BODY}")
    return _header(frame[PREFIX.size : end]), body


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = DECODER.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise FrameError("header is not a JSON object")
    _bound(header, MAX_DEPTH)
    return header


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _bound(value: object, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise FrameError(f"header is nested deeper than {MAX_DEPTH}")
        for item in value.values() if isinstance(value, dict) else value:
            _bound(item, depth - 1)


# made once, which takes longer than a small header
ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False)
DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)
