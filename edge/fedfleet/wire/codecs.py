"""How weights differences travel: what `shrink` does on the device, `grow` undoes in the cloud, in one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedfleet.wire.errors import FrameError, SettingsError

Weights = NDArray[np.float32]


class Codec(NamedTuple):
    """Two halves that cannot drift, and the size in bytes of `p` parameters when encoded."""

    shrink: Callable[[Weights], bytes]
    grow: Callable[[bytes], Weights]
    size: Callable[[int], int]


def _shrink_float32(delta: Weights) -> bytes:
    return delta.astype("<f4", copy=False).tobytes()


def _grow_float32(data: bytes) -> Weights:
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False)


CODECS = {"float32": Codec(_shrink_float32, _grow_float32, lambda parameters: 4 * parameters)}


def codec(name: str) -> Codec:
    """Return the codec called `name`; raises SettingsError that lists the known ones."""
    if name not in CODECS:
        raise SettingsError(f"unknown codec {name[:32]!r}; known: {', '.join(CODECS)}")
    return CODECS[name]


def grow(name: str, data: bytes, parameters: int) -> Weights:
    """Return the difference that `data` encodes, float32[parameters]; raises FrameError where it does not fit.

    An update with NaN or infinity is refused here, so that nothing behind this line has to look again.
    """
    chosen = codec(name)
    if len(data) != chosen.size(parameters):
        raise FrameError(f"update has {len(data)} bytes, but {parameters} parameters take {chosen.size(parameters)}")
    delta = chosen.grow(data)
    if not np.isfinite(delta).all():
        raise FrameError("update has NaN or infinity in it; training diverged: lower the learning rate")
    return delta
