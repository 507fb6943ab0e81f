"""The aggregator, to be killed at chosen points: `python -m faults.killed_cloud TRACE LIFE KILLS SETTINGS`.

Points are counted anew in each section of its work: `start`, `round N` from the moment at which that round is in the
journal, `end` once all rounds are over, and `life N` for what its Nth life does before it opens a round. KILLS is a
JSON table: in which section to be killed at which point.

Beside the points that every process has (`faults.points`) there are these, of the journal:

- before and after each statement that SQLite is given. What happens inside is in C, where no call can be wrapped; so
  `torn` stands for a kill in the middle of it: the log that it appends to is cut off between its two ends, as when only
  some of its pages had been written. That needs no debugger and no luck, and is the same in every run.
- `torn` in the same way for the files: as if only half of what was being written had reached the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from faults.points import Points, file_name, file_path

from fedfleet.cli.main import main
from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.journal import Journal

Statement = Callable[..., Any]


def size(path: Path) -> int:
    """The bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def torn_files(point: Points) -> None:
    """Before a file is synced it may hold a part of what was written to it since the last time."""
    fsync, synced, truncate = os.fsync, dict[Path, int](), os.truncate

    def call(handle: int) -> None:
        path = file_path(handle)
        if path.is_file():
            whole = size(path)
            half = (min(synced.get(path, 0), whole) + whole) // 2
            point(f"torn {file_name(handle)}", partial(truncate, path, half))
            synced[path] = whole
        fsync(handle)

    os.fsync = call


def torn_log(point: Points) -> type[sqlite3.Connection]:
    """Return a connection that has points around each of its statements."""
    truncate = os.truncate

    class Connection(sqlite3.Connection):
        def _around(self, statement: Statement, query: str, *values: Any) -> Any:
            name = " ".join(query.split()[:3])
            point(f"before sql {name}")
            before = size(self._log)
            found = statement(query, *values)
            if (after := size(self._log)) > before:
                point(f"torn sql {name}", partial(truncate, self._log, (before + after) // 2))
            point(f"after sql {name}")
            return found

        @property
        def _log(self) -> Path:
            return Path(f"{self._path}-wal")

        def __init__(self, path: Path, *arguments: Any, **options: Any) -> None:
            super().__init__(path, *arguments, **options)
            self._path = path

        def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
            return self._around(super().execute, query, *values)  # type: ignore[no-any-return]

        def executemany(self, query: str, *values: Any) -> sqlite3.Cursor:
            return self._around(super().executemany, query, *values)  # type: ignore[no-any-return]

        def executescript(self, query: str) -> sqlite3.Cursor:
            return self._around(super().executescript, query)  # type: ignore[no-any-return]

        def close(self) -> None:
            point("before close")
            super().close()
            point("after close")

    return Connection


def sections(point: Points) -> None:
    """Let each round be a section, and what comes after the last."""
    open_round, retire = Journal.open_round, Aggregator.retire

    def opened(journal: Journal, task: Any, *rest: Any) -> None:
        open_round(journal, task, *rest)
        point.enter(f"round {task.round}")

    def retired(aggregator: Aggregator) -> None:
        point.enter("end")
        retire(aggregator)

    Journal.open_round = opened  # type: ignore[method-assign]
    Aggregator.retire = retired  # type: ignore[method-assign]


if __name__ == "__main__":
    trace, life, kills, settings = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    found = Points(trace, json.loads(kills), "start" if life == 1 else f"life {life}")
    sqlite3.connect = partial(sqlite3.connect, factory=torn_log(found))  # type: ignore[assignment]
    torn_files(found)
    found.install()
    sections(found)
    sys.argv = ["fedfleet", "aggregate", settings]
    main()
