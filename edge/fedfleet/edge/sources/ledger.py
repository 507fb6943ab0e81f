"""Which files of a folder have been read: a line of JSON before a file is stored, one after; the newest counts."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.record import Mismatch, build, plain

MOST = 10_000  # files that are remembered after they have gone


@dataclass(frozen=True)
class Entry:
    """A file as it was when it had `rows` examples: those from `start` on are stored, or are about to be if `begun`.

    `reason` says why it was set aside instead.
    """

    name: str
    size: int
    mtime_ns: int
    inode: int
    digest: str
    start: int = 0
    rows: int = 0
    begun: bool = False
    reason: str = ""


class Ledger:
    """The file `path`. What it has been told is on disk when it returns."""

    def __init__(self, path: Path, present: Collection[str] = ()) -> None:
        """Read `path`; a line that is torn, as the last one may be, counts as not written. Raises StoreError.

        Of files that have gone the newest are kept, all while none is `present`: a disk may have been taken out.
        """
        self._path = path
        self._entries: dict[tuple[str, int], Entry] = {}
        self._newest: dict[str, Entry] = {}
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}; free the disk or check it") from None
        for entry in _entries(text):
            self._take(entry)
        here = {name: self._newest[name].inode for name in self._newest.keys() & set(present)}
        gone = [key for key in self._entries if here.get(key[0]) != key[1]] if here else []
        for key in gone[:-MOST]:
            del self._entries[key]
        self._newest = {entry.name: entry for entry in self._entries.values()}
        if text.count("\n") != len(self._entries) or text[-1:] not in ("", "\n"):
            files.write(path, b"".join(map(_line, self._entries.values())))

    def named(self, name: str) -> Entry | None:
        """What is known of the file `name`."""
        return self._newest.get(name)

    def same(self, digest: str) -> Entry | None:
        """The entry of a file with just these bytes, under whatever name."""
        return next((entry for entry in self._entries.values() if entry.digest == digest), None)

    def earlier(self, name: str, inode: int) -> list[Entry]:
        """What may be an earlier state of a file: of the same name, or renamed since, as logs are when they rotate."""
        entries = self._entries.values()
        return [entry for entry in entries if not entry.reason and (entry.name == name or entry.inode == inode)]

    def add(self, entry: Entry) -> None:
        """Write down what has become of a file. Raises StoreError."""
        try:
            with self._path.open("ab") as file:
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}; free the disk or check it") from None
        self._take(entry)

    def _take(self, entry: Entry) -> None:
        key = entry.name, entry.inode  # of a log that was rotated, the old one is still to be read to its end
        self._entries.pop(key, None)
        self._entries[key] = self._newest[entry.name] = entry


def _entries(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        try:
            yield build(Entry, json.loads(line), strict=False)
        except (ValueError, Mismatch):
            continue


def _line(entry: Entry) -> bytes:
    return json.dumps(plain(entry)).encode() + b"\n"
