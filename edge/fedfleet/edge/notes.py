"""The newest append that was given a name, so that one which was cut off can be made again without adding twice.

`note.json` in the store's folder is written before the append's first example and says where the store ended then. What
the append has brought to disk is what lies beyond, as long as nothing else has been added: whoever adds something else
writes down the sum first. All of it happens under the store's lock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedfleet.edge.segments import Segment
from fedfleet.wire import files
from fedfleet.wire.record import Mismatch, build, plain

NAME = "note.json"


@dataclass(frozen=True)
class Note:
    """The append `name`: `before` of its examples were stored when segment `segment` was the newest and had `rows`.

    While it is `open`, what the store holds beyond that is of this append too.
    """

    name: str
    before: int
    segment: int
    rows: int
    open: bool = True

    @staticmethod
    def after(segments: Sequence[Segment], name: str, before: int) -> Note:
        """Return the note of an append that goes on behind `segments`."""
        number, rows = (int(segments[-1].path.stem), segments[-1].rows) if segments else (0, 0)
        return Note(name, before, number, rows)

    def stored(self, segments: Sequence[Segment]) -> int:
        """How many examples of this append the store holds, or has held."""
        if not self.open:
            return self.before
        numbers = {int(segment.path.stem): segment.rows for segment in segments}
        beyond = sum(rows for number, rows in numbers.items() if number > self.segment)
        return self.before + beyond + max(numbers.get(self.segment, 0) - self.rows, 0)

    def closed(self, stored: int) -> Note:
        """Return the note for when something else is added."""
        return replace(self, before=stored, open=False)


def recall(folder: Path) -> Note | None:
    """Return the store's note; None where there is none, or a damaged one, which only a failing card can make."""
    try:
        return build(Note, json.loads((folder / NAME).read_bytes()), strict=False)
    except (FileNotFoundError, ValueError, Mismatch):
        return None


def remember(folder: Path, note: Note) -> None:
    """Write the store's note. Raises StoreError."""
    files.write(folder / NAME, json.dumps(plain(note)).encode())
