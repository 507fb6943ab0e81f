"""What neighbours show each other: a model of a round, announced by one frame and carried by as many parts as it takes.

All of it is retained, in two slots that alternate: who shows round r + 2 has mixed r + 1, for which each neighbour had
mixed r before, so nothing is overwritten that is still to be read, and who connects late or anew misses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedfleet.wire import frames
from fedfleet.wire.chunks import Assembly, Part, cut, open_part
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import MAX_ROUND, Blob, decode, encode
from fedfleet.wire.record import plain, require
from fedfleet.wire.topics import NAME

ANNOUNCED = "announced"
SLOTS = 2
MAX_DEGREE = 256


@dataclass(frozen=True)
class Announced:
    """A device's model of `round`, trained and not yet mixed; it mixes no more with whom it is `without`."""

    round: int
    blob: Blob
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(1 <= self.round <= MAX_ROUND, "round must be at least 1")
        require(len(self.without) <= MAX_DEGREE, f"more than {MAX_DEGREE} neighbours")
        require(all(NAME.fullmatch(device) for device in self.without), "without must name devices")


def announced(round_: int, data: bytes, without: tuple[str, ...]) -> tuple[str, bytes]:
    """Return the part and the frame that announce a model's bytes."""
    return ANNOUNCED, encode(Announced(round_, Blob.of(data), without))


def parts(round_: int, data: bytes) -> list[tuple[str, bytes]]:
    """Return the parts of a model's bytes, by name, each at most 64 KiB, in frames."""
    digest = Blob.of(data).digest
    heads = [{"kind": "part", **plain(Part(round_, digest, index))} for index in range(len(cut(data)))]
    return [(str(index), frames.pack(head, body)) for index, (head, body) in enumerate(zip(heads, cut(data)))]


@dataclass
class Slot:
    """What has come of one model: bounded by the size that it must have."""

    announced: Announced | None = None
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)
    model: Weights | None = None


class Neighbour:
    """What one neighbour has shown, as far as it has come; its models have `size` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots = [Slot() for _ in range(SLOTS)]

    def take(self, slot: int, part: str, frame: bytes) -> Announced | None:
        """Take what was shown; returns an announcement. Raises FrameError for what cannot be a model's."""
        into = self._slots[slot]
        if part == ANNOUNCED:
            found = decode(Announced, frame)
            if found.blob.size != self._size:
                raise FrameError(f"a model of {found.blob.size} bytes, not {self._size}")
            into.announced, into.model = found, None
            return found
        head, body = open_part(frame)
        if part != str(head.index) or not 0 <= head.index < Blob(head.digest, self._size).chunks:
            raise FrameError(f"part {part[:16]!r} is none of a model of {self._size} bytes")
        into.parts[head.index] = head, body
        return None

    def model(self, round_: int) -> Weights | None:
        """The model of `round_`, float32[P], if all of it is here; FrameError where it is not what was announced."""
        slot = self._slots[round_ % SLOTS]
        if slot.announced is None or slot.announced.round != round_:
            return None
        if slot.model is None:
            slot.model = self._whole(slot, slot.announced)
        return slot.model

    def _whole(self, slot: Slot, found: Announced) -> Weights | None:
        assembly = Assembly(found.blob)
        for head, body in slot.parts.values():
            if head.digest == found.blob.digest:
                assembly.add(head.index, body)
        if assembly.missing():
            return None
        model = np.frombuffer(assembly.finish(), "<f4").astype(np.float32)
        if not np.isfinite(model).all():
            raise FrameError(f"the model of round {found.round} is not finite")
        return model

    def forget(self, round_: int) -> None:
        """Make room: the model of `round_` has been used."""
        self._slots[round_ % SLOTS] = Slot()
