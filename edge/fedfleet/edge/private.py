"""What stays on this device from round to round: the weights of local layers, what codecs lost (residual.py), and its
control variate (controls.py).

local/<program digest>/<round>.weights  float32, little-endian, as that round left them, with their sha256 behind

Local weights of the newest two programs are kept, so that a fleet which goes back to the last one finds them again.
A round starts from the newest weights below its own number. So a device that lost its power between keeping them and
sending its update trains that round again from where it began, and comes to the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from fedfleet.wire import files
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import StoreError
from fedfleet.wire.topics import DIGEST

SUFFIX = ".weights"
SHA256 = 32


def always(round_: int) -> bool:
    """Every round counts."""
    return True


class Private:
    """One program's weights in a folder that all programs share."""

    def __init__(self, folder: Path, digest: str, initial: Weights, programs: int = 2) -> None:
        """`initial` is what the first round has, float32[L]; `folder` is made when there is something to keep.

        What is kept of more than `programs` programs goes, the oldest first.
        """
        self._programs = folder
        self._folder = folder / digest
        self._initial = initial
        self._others = programs - 1

    def before(self, round_: int, counts: Callable[[int], bool] = always) -> Weights:
        """Return what `round_` starts from: the newest of an earlier round that `counts`, or the initial ones."""
        for number in sorted(_rounds(self._folder), reverse=True):
            found = self._read(number) if number < round_ and counts(number) else None
            if found is not None:
                return found
        return self._initial

    def keep(self, round_: int, weights: Weights, counts: Callable[[int], bool] = always) -> None:
        """Write what `round_` left; of all others only the newest earlier that `counts` is kept, and other programs'.

        Raises StoreError.
        """
        data = weights.astype("<f4").tobytes()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be made: {error.strerror}; make room on the disk") from None
        files.write(self._path(round_), data + hashlib.sha256(data).digest())
        # those of later rounds are of a fleet that has begun anew since
        earlier = max((number for number in _rounds(self._folder) if number < round_ and counts(number)), default=0)
        for number in _rounds(self._folder) - {round_, earlier}:
            files.remove(self._path(number))
        others = [path for path in self._programs.iterdir() if DIGEST.fullmatch(path.name) and path != self._folder]
        newest_first = sorted(others, key=lambda path: _newest(path, round_), reverse=True)
        for path in newest_first[self._others :]:
            _forget(path)

    def _path(self, round_: int) -> Path:
        return self._folder / f"{round_}{SUFFIX}"

    def _read(self, round_: int) -> Weights | None:
        """Return the weights of `round_`; None if they have rotted, so that an older state serves."""
        try:
            content = self._path(round_).read_bytes()
        except OSError:
            return None
        data, digest = content[:-SHA256], content[-SHA256:]
        if len(data) != 4 * self._initial.size or hashlib.sha256(data).digest() != digest:
            return None
        return np.frombuffer(data, "<f4").astype(np.float32)


def _rounds(folder: Path) -> set[int]:
    """The rounds whose weights lie in a program's folder."""
    names = [path.stem for path in folder.glob("*" + SUFFIX)]
    return {int(name) for name in names if name.isdecimal()}


def _newest(folder: Path, below: int) -> int:
    """The newest of them that is below a round, 0 for none; a board's clock is not to be asked."""
    return max((number for number in _rounds(folder) if number < below), default=0)


def _forget(folder: Path) -> None:
    """Remove a program's folder; what is left of it, after a power cut too, goes next time."""
    with suppress(OSError):  # without shutil, whose import costs half a MiB of a small board's memory
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
