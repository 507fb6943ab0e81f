"""How weights differences travel: what `shrink` does on the device, `grow` undoes in the cloud.

A codec is called [topk:SHARE+]VALUES[+zlib], as in `int4` or `topk:0.1+int4+zlib`: only the largest SHARE of the values
travels, as VALUES says, deflated in the end. Each part is a file of its own, and takes the size of what it will return
before it allocates it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from fedfleet.wire.codecs import deflate
from fedfleet.wire.codecs.blocks import blocks
from fedfleet.wire.codecs.coding import Coding, Weights
from fedfleet.wire.codecs.floats import floats
from fedfleet.wire.codecs.topk import topk
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.examples import stream

__all__ = ["PLAIN", "Weights", "codec", "grow", "lengths", "shrink", "span", "spoken"]

PLAIN = "float32"
VALUES = {PLAIN: floats("<f4"), "float16": floats("<f2"), "int8": blocks(8), "int4": blocks(4)}
SHARE = re.compile(r"0\.([0-9]{1,4})")


class Codec(NamedTuple):
    """A coding, and whether its bytes are deflated."""

    coding: Coding
    packed: bool


def codec(name: str) -> Codec:
    """Return the codec called `name`; raises SettingsError that says how to write one."""
    parts = name.split("+")
    packed = len(parts) > 1 and parts[-1] == "zlib"
    inner = parts[:-1] if packed else parts
    share = inner[0].removeprefix("topk:") if inner[0].startswith("topk:") else None
    values = inner[share is not None :]
    if len(values) != 1 or values[0] not in VALUES:
        known = f"known: {', '.join(VALUES)}, each with topk:SHARE+ before it, +zlib behind it, or both"
        raise SettingsError(f"unknown codec {name[:32]!r}; {known}")
    if share is None:
        return Codec(VALUES[values[0]], packed)
    digits = SHARE.fullmatch(share)
    kept = int(digits[1].ljust(4, "0")) if digits else 0
    if kept == 0:
        raise SettingsError(f"codec {name[:32]!r}: topk keeps a share from 0.0001 to 0.9999; write topk:0.1")
    return Codec(topk(kept, VALUES[values[0]]), packed)


def spoken(name: str) -> str:
    """Return `name` if a codec is called so here, else the one that every cloud takes: a plan may be newer than us."""
    try:
        codec(name)
    except SettingsError:
        return PLAIN
    return name


def lengths(name: str, parameters: int) -> range:
    """Return how many bytes an update may have; one number alone where nothing is deflated. Raises SettingsError."""
    chosen = codec(name)
    size = chosen.coding.size(parameters)
    return range(2, size + 2) if chosen.packed else range(size, size + 1)


def shrink(name: str, delta: Weights, seed: int) -> bytes:
    """Return the difference `delta`, finite and below 2^32, encoded; `seed` decides what is rounded up and down."""
    chosen = codec(name)
    data = chosen.coding.shrink(delta, stream("codec", seed))
    return deflate.pack(data) if chosen.packed else data


def grow(name: str, data: bytes, parameters: int) -> Weights:
    """Return the difference that `data` encodes, float32[parameters]; raises FrameError where it does not fit.

    An update with NaN or infinity is refused here, so that nothing behind this line has to look again.
    """
    chosen, fits = codec(name), lengths(name, parameters)
    if len(data) not in fits:
        raise FrameError(f"update has {len(data)} bytes, but {parameters} parameters take {span(fits)}")
    whole = deflate.unpack(data, chosen.coding.size(parameters)) if chosen.packed else data
    delta = chosen.coding.grow(whole, parameters)
    if not _finite(delta):
        raise FrameError("update has NaN or infinity in it; training diverged: lower the learning rate")
    return delta


def _finite(values: Weights) -> bool:
    """Whether there is neither NaN nor infinity: nor is there in the quick sum of squares, unless values are huge."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(values, values)) or np.isfinite(values).all())


def span(fits: range) -> str:
    """Return lengths as a sentence has them: `16`, or `2 to 17`."""
    return str(fits[0]) if len(fits) == 1 else f"{fits[0]} to {fits[-1]}"
