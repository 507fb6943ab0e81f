"""The device's own examples: a bounded folder of append-only segments, and the batches that training draws from them.

A call of `append` ends in one fsync per segment it touched, so only the end of the newest segment can be torn. Opening
finds that end by its checksums and cuts it off. Damage anywhere else is the card's: the segment is set aside under the
name `*.damaged` and those of its records that are whole are written anew. Several processes may hold the store: each
call takes an advisory lock on the folder, and nobody repairs what another is writing.

A segment's time stamp says when it was begun, whatever was added later, and so how old its oldest example is at most.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedfleet.edge.notes import Note, recall, remember
from fedfleet.edge.segments import MAX_VALUES, Schema, Segment, create, extend, header, inspect
from fedfleet.wire.clock import CLOCK_SET
from fedfleet.wire.errors import DataError, SettingsError, StoreError
from fedfleet.wire.examples import Examples, Labels, check, permutation

SHARES = 8  # a segment is begun at the latest when the newest has reached this part of the age at which examples go
SEGMENTS, DAMAGED = ("[0-9]" * 10 + suffix for suffix in (".segment", ".damaged"))


class Batch(NamedTuple):
    """One training step's worth: x float32[size, ...], y as in Examples, weight float32[size], 0 where padded."""

    x: npt.NDArray[np.float32]
    y: Labels
    weight: npt.NDArray[np.float32]


def batches(
    parts: Sequence[Examples],
    size: int,
    seed: int,
    *,
    epochs: int = 1,
    steps: int | None = None,
    chosen: npt.NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """Batches of `epochs` passes over the parts, or exactly `steps` batches from as many passes as that takes.

    Pass e visits every example once, or every one `chosen`, in `permutation(n, "epoch", seed, e)`: the same on every
    platform and numpy version. The last batch of a pass is padded with zeros of weight 0. DataError where all is empty.
    """
    total = sum(len(part.y) for part in parts) if chosen is None else len(chosen)
    if total == 0:
        raise DataError("there are no examples to train on yet: collect some first")
    if size < 1:
        raise SettingsError(f"batch size {size} is not positive: ask for at least 1")
    passes = range(epochs) if steps is None else count()
    orders = (permutation(total, "epoch", seed, number) for number in passes)
    visited = (order if chosen is None else chosen[order] for order in orders)
    return islice((batch for index in visited for batch in gathered(parts, index, size)), steps)


def gathered(parts: Sequence[Examples], index: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
    """The examples at `index`, counted through all parts, in that order; the last batch is padded."""
    starts = np.cumsum([0, *(len(part.y) for part in parts)])
    return (_gather(parts, starts, index[at : at + size], size) for at in range(0, len(index), size))


def _gather(parts: Sequence[Examples], starts: npt.NDArray[np.int64], index: npt.NDArray[np.int64], size: int) -> Batch:
    x = np.zeros((size, *parts[0].x.shape[1:]), np.float32)
    y: Labels = np.zeros((size, *parts[0].y.shape[1:]), parts[0].y.dtype)
    owner = np.searchsorted(starts, index, side="right") - 1
    for part in sorted(set(owner.tolist())):  # np.unique would load numpy.ma, 1.5 MiB of a small board's memory
        at = np.flatnonzero(owner == part)
        x[at] = parts[part].x[index[at] - starts[part]]
        y[at] = parts[part].y[index[at] - starts[part]]
    return Batch(x, y, (np.arange(size) < len(index)).astype(np.float32))


class Store:
    """Examples on disk. `dropped` examples made room, `torn` bytes and `damaged` segments were found, since opening."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        segment_bytes: int,
        max_age: float = 0.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.dropped = self.torn = self.damaged = 0
        self._max_bytes, self._segment_bytes = max_bytes, segment_bytes
        self._max_age, self._wall = max_age, wall
        self._segments: list[Segment] = []

    @classmethod
    def open(
        cls,
        folder: str | Path,
        max_bytes: int = 64 * 2**20,
        segment_bytes: int = 2**20,
        max_age: float = 0.0,
        wall: Callable[[], float] = time.time,
    ) -> Store:
        """The store in `folder`, made or mended; its files stay within `max_bytes`. StoreError if it cannot be.

        `forget` drops what is older than `max_age` seconds by the clock `wall`; 0 for no such bound.
        """
        if not 0 < 2 * segment_bytes <= max_bytes:
            raise SettingsError(f"a store of {max_bytes} bytes needs room for 2 segments of {segment_bytes}: raise it")
        store = cls(Path(folder), max_bytes, segment_bytes, max_age, wall)
        with store._locked():
            pass
        return store

    def __len__(self) -> int:
        return sum(segment.rows for segment in self._segments)

    @property
    def schema(self) -> Schema | None:
        """What its examples look like; None while it is empty."""
        return self._segments[-1].schema if self._segments else None

    def append(self, examples: Examples, name: str = "") -> None:
        """Add examples and return once they are on disk; the oldest segments make room.

        An append with a `name` may be made again after a crash, before one of another name is: what the first one has
        brought to disk is not added twice. DataError for examples that cannot be trained on or have another schema.
        StoreError when the disk refuses: then the examples of the segment being written are taken back, and the store
        is as good as before.
        """
        check(examples)
        x, y = examples
        schema = Schema(x.shape[1:], y.shape[1:] if y.dtype == np.float32 else None)
        with self._locked():
            if self.schema not in (None, schema):
                raise DataError(f"{self.folder} holds {self.schema}, not {schema}: use another folder for these")
            size = schema.record.itemsize
            if x[0].size > MAX_VALUES or len(header(schema, 0)) + size > self._max_bytes:
                raise DataError(f"an example of {size} bytes does not fit {self.folder}: raise its bound, or crop")
            done = self._begin(name, len(y))
            while done < len(y):
                done += self._write(schema, Examples(x[done:], y[done:]))

    def batches(self, size: int, seed: int, *, epochs: int = 1, steps: int | None = None) -> Iterator[Batch]:
        """`batches` over what the store holds at the time of the call, read through memory maps."""
        parts = [Examples(part["x"], part["y"]) for part in self.records()]
        return batches(parts, size, seed, epochs=epochs, steps=steps)

    def records(self) -> list[npt.NDArray[np.void]]:
        """What the store holds at the time of the call, oldest first: memory maps of `x | y | crc`."""
        with self._locked():
            return [segment.records() for segment in self._segments if segment.rows]

    def arrays(self) -> Examples:
        """All examples in memory, oldest first; DataError when there are none."""
        maps = self.records()
        if not maps:
            raise DataError(f"{self.folder} holds no examples yet: collect some first")
        return Examples(np.concatenate([part["x"] for part in maps]), np.concatenate([part["y"] for part in maps]))

    def forget(self) -> int:
        """Drop segments whose oldest example is older than the bound; how many examples that were.

        A clock that is behind, or was never set, keeps them longer. What was stored before the clock was set counts as
        new from the first call on by which it is.
        """
        if not self._max_age:
            return 0
        with self._locked():
            now = self._wall()
            paths = [segment.path for segment in self._segments] + sorted(self.folder.glob(DAMAGED))
            begun = {path: path.stat().st_mtime for path in paths}
            for path in (path for path in paths if begun[path] < CLOCK_SET):
                os.utime(path, (now, now))
            old = {path for path in paths if CLOCK_SET <= begun[path] < now - self._max_age}
            gone = sum(segment.rows for segment in self._segments if segment.path in old)
            for path in old:
                path.unlink()
            self._segments = [segment for segment in self._segments if segment.path not in old]
            self.dropped += gone
        return gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder to ourselves, and our list of segments true to it; the system's errors become StoreError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._refresh()
                yield
        except OSError as error:
            raise StoreError(f"{error.filename or self.folder}: {error.strerror}; free the disk or check it") from error

    def _refresh(self) -> None:
        """List the segments again, and check those that are new to us or changed their size."""
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        known = {(segment.path, segment.size): segment for segment in self._segments}
        paths = sorted(self.folder.glob(SEGMENTS))
        self._segments = []
        for path in paths:
            segment = known.get((path, path.stat().st_size)) or self._mend(path, path == paths[-1])
            if segment:
                self._segments.append(segment)

    def _mend(self, path: Path, newest: bool) -> Segment | None:
        """Check every record of a file; cut off its torn end, or set it aside and keep the records that are whole."""
        segment = inspect(path)
        if segment is None or self.schema not in (None, segment.schema):
            self._set_aside(path)
            return None
        begun = path.stat().st_mtime_ns
        records, whole = segment.records(), segment.whole()
        good = len(whole) if whole.all() else int(np.argmin(whole))
        end = segment.start + good * segment.schema.record.itemsize
        if end == segment.size:
            return segment
        if newest and not whole[good:].any():
            with path.open("r+b") as file:
                file.truncate(end)
                os.utime(file.fileno(), ns=(begun, begun))
                os.fsync(file.fileno())
            self.torn += segment.size - end
            return segment._replace(size=end, rows=good)
        kept = records[whole]
        self._set_aside(path)
        mended = create(path, segment.schema, Examples(kept["x"], kept["y"]))
        os.utime(path, ns=(begun, begun))
        return mended

    def _set_aside(self, path: Path) -> None:
        """Keep a damaged file under a name that is not read again; it counts against the bound and goes first."""
        path.replace(path.with_suffix(".damaged"))
        self.damaged += 1

    def _begin(self, name: str, count: int) -> int:
        """How many of the append `name` are stored already; from here on they can be told from what comes later."""
        note = recall(self.folder)
        stored = note.stored(self._segments) if note else 0
        if note and note.open and note.name != name:
            remember(self.folder, note.closed(stored))
        if not name:
            return 0
        done = min(stored, count) if note and note.name == name else 0
        if done < count:
            remember(self.folder, Note.after(self._segments, name, done))
        return done

    def _write(self, schema: Schema, examples: Examples) -> int:
        """Bring to disk as many of the examples as the newest segment, or a new one, takes; their number."""
        size = schema.record.itemsize
        newest = self._segments[-1] if self._segments else None
        free = (self._segment_bytes - newest.size) // size if newest and not self._ripe(newest) else 0
        if newest and free > 0:
            part = Examples(examples.x[:free], examples.y[:free])
            self._make_room(len(part.y) * size)
            self._segments[-1] = extend(newest, part)
            return len(part.y)
        taken = (int(path.stem) for kind in (SEGMENTS, DAMAGED) for path in self.folder.glob(kind))
        path = self.folder / f"{max(taken, default=0) + 1:010d}.segment"
        head = len(header(schema, int(path.stem)))
        fit = max((self._segment_bytes - head) // size, 1)
        part = Examples(examples.x[:fit], examples.y[:fit])
        self._make_room(head + len(part.y) * size)
        self._segments.append(create(path, schema, part))
        return len(part.y)

    def _ripe(self, segment: Segment) -> bool:
        """Whether what comes now would be dropped too early by the age of the segment's first example."""
        age = self._wall() - segment.path.stat().st_mtime
        return bool(self._max_age) and self._max_age / SHARES < age < self._wall() - CLOCK_SET

    def _make_room(self, need: int) -> None:
        """Drop what is damaged, then the oldest segments, until `need` more bytes stay within the bound."""
        aside = sorted(self.folder.glob(DAMAGED))
        used = sum(path.stat().st_size for path in aside) + sum(segment.size for segment in self._segments)
        while used + need > self._max_bytes:
            if aside:
                used -= aside[0].stat().st_size
                aside.pop(0).unlink()
                continue
            oldest = self._segments.pop(0)
            oldest.path.unlink()
            self.dropped += oldest.rows
            used -= oldest.size
