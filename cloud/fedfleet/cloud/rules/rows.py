"""All updates of a round at once, on disk: for rules that are no sums.

They are read in the order of their digests, not as they came, so that arrival order, shards and restarts cannot change
the result; and in blocks, so that memory stays that of a few updates however many there are.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.rules.ops import Block, Engine, Kernel, alone
from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.sums import HEADROOM, NOTHING, Told
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import FrameError, StoreError

Matrix = NDArray[np.float64]
BLOCK = 2**18  # values in memory at a time, 1 MiB of them
LEAST = np.finfo(np.float32).tiny  # what is nearer to zero is taken for it, as by processors that save their time


class Rows:
    """Updates as float32[n, P] in a temporary file that goes with it; `combine` makes one difference of them.

    What it makes of blocks, it has worked out by `engine`.
    """

    def __init__(self, combine: Callable[[Rows], Matrix], parameters: int) -> None:
        """Start empty; raises StoreError where there is no room for temporary files (TMPDIR says where)."""
        self.parameters = parameters
        self.engine: Engine = alone
        self._combine = combine
        self._places: list[tuple[bytes, int, int]] = []  # of each update its digest, its examples, where it lies
        with _disk():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is closed with the last of us
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        """How many updates there are."""
        return len(self._places)

    def add(self, delta: Weights, examples: int, told: Told = NOTHING) -> None:
        """Keep one update; raises FrameError for one that moves by 2^32 and more, StoreError where the disk is full."""
        if not float(np.max(np.abs(delta), initial=0.0)) < HEADROOM:
            raise FrameError(f"weights move by {HEADROOM} or more; lower the learning rate")
        self._append(delta.astype("<f4").tobytes(), examples)

    def merge(self, other: Self) -> None:
        """Keep what another has as well."""
        for _, examples, place in other._places:
            self._append(other._read(place, 0, self.parameters), examples)

    def value(self) -> Matrix:
        """Return the combined difference, float64[P]; raises ValueError when nothing was added."""
        if not self._places:
            raise ValueError("the combination of no updates")
        return self._combine(self)

    def rows(self) -> Iterator[Matrix]:
        """Yield one update after the other, float64[P]."""
        for *_, place in sorted(self._places):
            yield np.frombuffer(self._read(place, 0, self.parameters), "<f4").astype(np.float64)

    def examples(self) -> list[int]:
        """Return how many examples each update has, in the order of `rows`."""
        return [examples for _, examples, _ in sorted(self._places)]

    def each(self, kernel: Kernel, *more: np.generic | NDArray[Any], **sizes: int) -> Iterator[Any]:
        """Yield what `kernel` makes of each block, of `more`, and with `sizes`."""
        return self.engine(kernel, self.blocks(), *more, **sizes)

    def blocks(self) -> Iterator[Block]:
        """Yield float32[n, some]: what all updates say of some weights, then of the next ones.

        Zeros have no sign, and no number is denormal: engines differ in what they make of those.
        """
        places, width = sorted(self._places), max(1, BLOCK // len(self))
        for start in range(0, self.parameters, width):
            stop = min(start + width, self.parameters)
            data = b"".join(self._read(place, start, stop) for *_, place in places)
            block = np.frombuffer(data, "<f4").reshape(len(places), stop - start).astype(np.float32)
            block[np.abs(block) < LEAST] = 0
            yield block

    def _append(self, data: bytes, examples: int) -> None:
        place, left = len(self._places) * 4 * self.parameters, memoryview(data)
        with _disk():
            while left:
                left = left[os.pwrite(self._file.fileno(), left, place + len(data) - len(left)) :]
        self._places.append((hashlib.sha256(data).digest(), examples, place))

    def _read(self, place: int, start: int, stop: int) -> bytes:
        with _disk():
            return os.pread(self._file.fileno(), 4 * (stop - start), place + 4 * start)


def gathered(combine: Callable[[Rows], Matrix], least: int = 1) -> Rule:
    """Return the rule that makes one difference of all updates by `combine`, from `least` of them on."""
    return Rule(partial(Rows, combine), least)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise StoreError(f"{folder}: {error.strerror}; free the disk, or set TMPDIR to a folder on another") from None
