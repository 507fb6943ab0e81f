"""Files of a folder, each stored exactly once: known by its bytes, whatever its name, and never changed or removed.

The bytes' sha256 is the name under which they are appended to the store, so that a power cut between the append and the
line in the ledger adds nothing twice. A CSV file that has grown is read on from where it was, provided that what it had
then is still there; so is one that was renamed meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fedfleet.edge.data import Store
from fedfleet.edge.sources.ledger import Entry, Ledger
from fedfleet.edge.sources.settings import Folder
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples, read_file

log = logging.getLogger("fedfleet.collect")
KINDS = (".csv", ".npz")
PIECE = 2**20


class Seen(NamedTuple):
    """What tells two states of a file apart without reading it."""

    size: int
    mtime_ns: int
    inode: int


class FolderSource:
    """The files of one folder."""

    def __init__(
        self, settings: Folder, beside: Path, ledger: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the folder that `settings` names, relative to `beside`; remember in the file `ledger` what was read."""
        self._folder = beside / settings.path
        self._options = {"label": settings.label} | ({"task": settings.task} if settings.task else {})
        self._quiet = settings.quiet
        self._ledger = Ledger(ledger, _names(self._folder))
        self._clock = clock
        self._looked: float | None = None
        self._waiting: dict[str, Seen] = {}
        self._trouble = ""

    def poll(self, store: Store) -> int:
        """Store the files that have not changed for a while and are not stored yet, the oldest first."""
        now = self._clock()
        if self._looked is not None and now - self._looked < self._quiet:
            return 0
        self._looked = now
        found = self._new()
        quiet = {name for name, seen in found.items() if self._waiting.get(name) == seen}
        self._waiting = found
        # the store remembers one append that was cut off, so that one goes first
        order = sorted(quiet, key=lambda name: (not self._begun(name, found[name]), found[name].mtime_ns, name))
        return sum(self._take(name, found[name], store) for name in order)

    def _new(self) -> dict[str, Seen]:
        """The files that have not been stored or set aside as they are now."""
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix.lower() in KINDS and path.name[0] != "."]
            trouble = ""
        except OSError as error:
            paths, trouble = [], f"{self._folder} cannot be listed: {error.strerror}; make it, or correct its name"
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble
        found = {path.name: seen for path in paths if (seen := _seen(path))}
        return {name: seen for name, seen in found.items() if not self._knows(name, seen)}

    def _begun(self, name: str, seen: Seen) -> bool:
        return any(entry.begun for entry in self._ledger.earlier(name, seen.inode))

    def _knows(self, name: str, seen: Seen) -> bool:
        entry = self._ledger.named(name)
        return entry is not None and not entry.begun and (entry.size, entry.mtime_ns) == (seen.size, seen.mtime_ns)

    def _take(self, name: str, seen: Seen, store: Store) -> int:
        """Store what is new in a file, or set it aside; how many examples that were."""
        path = self._folder / name
        try:
            digest, earlier = self._read_before(path, seen)
            same = self._ledger.same(digest)
            if same and not same.begun:
                self._ledger.add(replace(same, name=name, **seen._asdict()))
                return 0
            examples = read_file(path.suffix[1:].lower(), path, self._options)
            if _seen(path) != seen:
                return 0
            return self._store(examples, Entry(name, *seen, digest, 0, len(examples.y)), earlier, store)
        except (DataError, OSError, MemoryError) as error:
            if _seen(path) == seen:
                self._set_aside(name, seen, error)
        return 0

    def _read_before(self, path: Path, seen: Seen) -> tuple[str, list[Entry]]:
        """The file's digest, and the entries of what it began with when it was read before; raises OSError."""
        grows = path.suffix.lower() == ".csv"
        known = [e for e in self._ledger.earlier(path.name, seen.inode) if e.size == seen.size or grows]
        digest, beginnings = _digests(path, {entry.size for entry in known})
        return digest, [entry for entry in known if beginnings[entry.size] == entry.digest]

    def _store(self, examples: Examples, entry: Entry, earlier: list[Entry], store: Store) -> int:
        """Store what the earlier entries do not have, first what one had begun. Raises DataError, StoreError."""
        for found in earlier:
            if found.begun:
                store.append(_rows(examples, found.start, found.rows), found.digest)
        start = max((found.rows for found in earlier), default=0)
        if start < entry.rows:
            self._ledger.add(replace(entry, start=start, begun=True))
            store.append(_rows(examples, start, entry.rows), entry.digest)
        self._ledger.add(replace(entry, start=start))
        log.info("%s: %d examples", self._folder / entry.name, entry.rows - start)
        return entry.rows - start

    def _set_aside(self, name: str, seen: Seen, error: DataError | OSError | MemoryError) -> None:
        """Note why a file is of no use as it is; it is read again when it has changed."""
        reason = str(error) if isinstance(error, DataError) else f"{name} cannot be read: {error or 'memory is short'}"
        log.warning("set aside: %s", reason)
        self._ledger.add(Entry(name, *seen, "", reason=reason[:200]))


def _rows(examples: Examples, start: int, end: int) -> Examples:
    return Examples(examples.x[start:end], examples.y[start:end])


def _names(folder: Path) -> set[str]:
    """The names of all files in a folder, none where it is not there."""
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


def _seen(path: Path) -> Seen | None:
    """What a file looks like from outside; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Seen(found.st_size, found.st_mtime_ns, found.st_ino) if path.is_file() else None


def _digests(path: Path, sizes: Collection[int]) -> tuple[str, dict[int, str]]:
    """The sha256 of a file, and of as many of its first bytes as each of `sizes` says; raises OSError."""
    whole, found, at = hashlib.sha256(), {}, 0
    with path.open("rb") as file:
        for end in (*sorted(sizes), None):
            for piece in _pieces(file.read, None if end is None else end - at):
                whole.update(piece)
                at += len(piece)
            if end is not None:
                found[end] = whole.copy().hexdigest() if at == end else ""
    return whole.hexdigest(), found


def _pieces(read: Callable[[int], bytes], size: int | None) -> Iterator[bytes]:
    """As many bytes as `size`, or all that are left, a piece at a time."""
    while size is None or size > 0:
        piece = read(PIECE if size is None else min(size, PIECE))
        if not piece:
            return
        yield piece
        size = None if size is None else size - len(piece)
