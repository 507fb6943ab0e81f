"""`zlib`: bytes deflated by the standard library where that makes them fewer; a first byte tells, 1 for deflated."""

from __future__ import annotations

import zlib

from fedfleet.wire.errors import FrameError

AS_IT_IS, DEFLATED = b"\0", b"\1"


def pack(data: bytes) -> bytes:
    """Return `data` in one byte more at most."""
    packed = zlib.compress(data)
    return DEFLATED + packed if len(packed) < len(data) else AS_IT_IS + data


def unpack(data: bytes, size: int) -> bytes:
    """Return the `size` bytes that were packed, and never hold many more. Raises FrameError."""
    if data[:1] == AS_IT_IS:
        return _whole(data[1:], size)
    if data[:1] != DEFLATED:
        raise FrameError(f"the first byte {data[:1]!r} is neither 0, as it is, nor 1, deflated")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data[1:], size + 1)
    except zlib.error as error:
        raise FrameError(f"update is not what zlib made: {error}") from None
    if not stream.eof or stream.unused_data:
        raise FrameError(f"update does not end where its {size} bytes do")
    return _whole(found, size)


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise FrameError(f"update holds {len(data)} bytes when unpacked, not {size}")
    return data
