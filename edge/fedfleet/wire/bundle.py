"""`release.json`: what a bundle, a signed release and a slot on a board are made of."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from fedfleet.wire.messages import VERSION, Blob
from fedfleet.wire.record import Mismatch, build, require

FILE = "release.json"
MAX_FILE = 64 * 1024
MAX_WHEELS = 32
WORD = re.compile(r"[A-Za-z0-9._]{1,32}")
WHEEL = re.compile(r"[A-Za-z0-9_.]{1,80}-[A-Za-z0-9_.+!]{1,40}(-[A-Za-z0-9_.]{1,120}){3,4}\.whl")


@dataclass(frozen=True)
class Wheel:
    """A wheel of a bundle; `size` in bytes."""

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        require(WHEEL.fullmatch(self.name) is not None, f"{self.name[:80]!r} is no name of a wheel")
        _ = self.blob

    @property
    def blob(self) -> Blob:
        """What to fetch."""
        return Blob(self.sha256, self.size)


@dataclass(frozen=True)
class Bundle:
    """The version of the agent, the `machine` (as `uname -m` says) and the `python` (such as 3.11) it is for."""

    version: str
    python: str
    machine: str
    wheels: tuple[Wheel, ...]

    def __post_init__(self) -> None:
        require(VERSION.fullmatch(self.version) is not None, "version must be 1 to 36 characters, first a digit")
        for key, word in (("python", self.python), ("machine", self.machine)):
            require(WORD.fullmatch(word) is not None, f"{key} must be a word")
        require(1 <= len(self.wheels) <= MAX_WHEELS, f"a release has 1 to {MAX_WHEELS} wheels")
        require(len({wheel.name for wheel in self.wheels}) == len(self.wheels), "a wheel is named twice")

    @property
    def size(self) -> int:
        """Bytes of all wheels."""
        return sum(wheel.size for wheel in self.wheels)

    def text(self) -> bytes:
        """The file's bytes, the same for the same bundle."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def parse(data: bytes) -> Bundle:
    """Return what is in a `release.json`; raises Mismatch, which says what is wrong with it."""
    if len(data) > MAX_FILE:
        raise Mismatch(f"{FILE} must have at most {MAX_FILE} bytes")
    try:
        return build(Bundle, json.loads(data), strict=False)
    except (ValueError, RecursionError) as error:
        raise Mismatch(str(error)) from None
