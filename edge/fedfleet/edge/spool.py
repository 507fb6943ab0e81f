"""The update that a device holds until its receipt or a newer task: one file, synced before anything counts as sent.

spool/<round>.update  length of the offer | the offer's frame | its sha256 | the encoded difference

What cannot be read back whole is told apart from what was never there: then the round is trained once more, which gives
the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from fedfleet.wire import files, frames
from fedfleet.wire.chunks import Offer, length, offer, open_offer, pack_offer
from fedfleet.wire.errors import FrameError, StoreError
from fedfleet.wire.messages import CHUNK, Update

LENGTH = struct.Struct("<I")
SUFFIX = ".update"
SHA256 = 32


class Rotten(Exception):
    """The update on the disk is not what was written; it has been removed."""


class Spool:
    """A folder with at most one update, of at most `room` bytes."""

    def __init__(self, folder: Path, room: int) -> None:
        self._folder = folder
        self._room = room

    def keep(self, update: Update) -> Offer:
        """Write `update`; those of older rounds are superseded. Returns what is to be said of it.

        Raises StoreError, also where it has no room.
        """
        self.clear()
        if len(update.delta) > self._room:
            raise StoreError(
                f"an update of {len(update.delta)} bytes is over max_spool_bytes, {self._room}; "
                "raise it or choose a codec"
            )
        offered = offer(update)
        head = pack_offer(offered)
        check = hashlib.sha256(head).digest()
        files.write(self._path(update.round), b"".join((LENGTH.pack(len(head)), head, check, update.delta)))
        return offered

    def round(self) -> int:
        """Return the round of the update that is spooled, 0 if there is none."""
        names = (path.stem for path in self._folder.iterdir() if path.suffix == SUFFIX)
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def offer(self, round_: int) -> Offer | None:
        """Return what is to be said of the update of `round_`, None if there is none; raises Rotten, StoreError."""
        path = self._path(round_)
        if not path.is_file():
            self._strangers()
            return None
        try:
            with path.open("rb") as file:
                (size,) = LENGTH.unpack(file.read(LENGTH.size))
                head = file.read(min(size, frames.MAX_HEADER + frames.PREFIX.size))
                found = open_offer(head)
                whole = file.read(SHA256) == hashlib.sha256(head).digest()
                whole = whole and hashlib.file_digest(file, "sha256").hexdigest() == found.blob.digest
        except (OSError, struct.error, FrameError):
            whole = False
        if not whole:
            files.remove(path)
            raise Rotten
        return found

    def part(self, offered: Offer, index: int) -> bytes:
        """Return the bytes of one part; raises FrameError for one that there is not, StoreError."""
        size = length(offered.blob, index)
        path = self._path(offered.round)
        try:
            with path.open("rb") as file:
                (head,) = LENGTH.unpack(file.read(LENGTH.size))
                file.seek(LENGTH.size + head + SHA256 + index * CHUNK)
                return file.read(size)
        except (OSError, struct.error):
            raise StoreError(f"{path} cannot be read; the round is trained again") from None

    def clear(self) -> int:
        """Drop what is spooled, and return how many updates that were. Raises StoreError."""
        paths = list(self._folder.iterdir())
        for path in paths:
            files.remove(path)
        return sum(path.suffix == SUFFIX for path in paths)

    def _strangers(self) -> None:
        """Remove what another version of us has spooled, which we cannot read; raises Rotten if there is any."""
        found = [path for path in self._folder.iterdir() if path.suffix != SUFFIX and not path.name.startswith(".")]
        for path in found:
            files.remove(path)
        if found:
            raise Rotten

    def _path(self, round_: int) -> Path:
        return self._folder / f"{round_}{SUFFIX}"
