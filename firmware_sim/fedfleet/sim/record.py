"""The run folder: what a run was, is and came to, readable at any moment and after any interruption.

`run.json` says what was asked for, `metrics.jsonl` gains one line a round, `mishaps.jsonl` one for what went wrong on
command, `outcome.json` is written at the end. The
terminal, the plots, the report and the comparison of runs all read from here. JSON has no word for a number that is
not finite, so a model that diverged is written as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fedfleet.cloud.federation import RoundRecord
from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.record import Mismatch, build, plain, require

T = TypeVar("T")

FACTS, ROUNDS, OUTCOME, MISHAPS = "run.json", "metrics.jsonl", "outcome.json", "mishaps.jsonl"
METRICS = ("accuracy", "rmse")
GOSSIP = "gossip"
MAX_BYTES = 256 * 2**20
KB = 1000


@dataclass(frozen=True)
class Facts:
    """What a run was asked to do. `counts` are examples by device and label; `scale` turns a target into `unit`s.

    The cloud has `cloud` examples of its own, and refines with them as `refine` says.
    """

    id: str
    data: str
    split: str
    strategy: str
    engine: str
    broker: str
    seed: int
    devices: int
    rounds: int
    metric: str
    scale: float
    unit: str
    parameters: int
    program: str
    program_bytes: int
    versions: dict[str, str]
    counts: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    refine: str = ""
    cloud: int = 0

    def __post_init__(self) -> None:
        """Raise `Mismatch` for values that no plot or table could show."""
        require(self.metric in METRICS, f"metric must be one of {', '.join(METRICS)}")
        require(self.scale > 0, "scale must be positive")
        require(len(self.counts) == self.devices, "counts must have one row a device")
        require(all(len(row) == len(self.labels) for row in self.counts), "counts must have one column a label")
        require(all(count >= 0 for row in self.counts for count in row), "counts must not be negative")


@dataclass(frozen=True)
class Outcome:
    """What a run came to. Scores are in natural units, None where there is none or the model diverged."""

    finished: bool
    rounds: int
    weights: str
    federation: float | None
    alone: tuple[float | None, ...]
    central: float | None
    seconds: float
    device_rss_mib: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Happened:
    """What went wrong on command, or was over, in words: in which round, and how long after the first one began."""

    round: int
    seconds: float
    text: str


class Run(NamedTuple):
    """A run folder in memory."""

    facts: Facts
    rounds: list[RoundRecord]
    outcome: Outcome | None
    happened: tuple[Happened, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end rather than being interrupted or still going on."""
        return self.outcome is not None and self.outcome.finished

    @property
    def gossips(self) -> bool:
        """Whether there was no aggregator: scores then are of the mean of all models, which no device holds."""
        return self.facts.engine == GOSSIP


class Recorder:
    """Writes one run folder. Every method leaves it readable."""

    def __init__(self, folder: Path) -> None:
        """Make `folder`. Raises StoreError if it cannot be made or holds a run already."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}") from None
        if any((folder / name).exists() for name in (FACTS, ROUNDS, OUTCOME)):
            raise StoreError(f"{folder} holds a run already: choose another folder, nothing was overwritten")

    def facts(self, facts: Facts) -> None:
        """Write run.json. Raises StoreError."""
        files.write(self.folder / FACTS, _encode(plain(facts), indent=1))

    def round(self, record: RoundRecord) -> None:
        """Append one line to metrics.jsonl and sync it. Raises StoreError."""
        self._append(ROUNDS, _encode(plain(record)))

    def happened(self, what: Happened) -> None:
        """Append one line to mishaps.jsonl and sync it. Raises StoreError."""
        self._append(MISHAPS, _encode(plain(what)))

    def _append(self, name: str, line: bytes) -> None:
        path = self.folder / name
        try:
            with path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from None

    def outcome(self, outcome: Outcome) -> None:
        """Write outcome.json. Raises StoreError."""
        files.write(self.folder / OUTCOME, _encode(plain(outcome), indent=1))


def read(folder: Path) -> Run:
    """Return the run in `folder`, finished or not. Raises StoreError in one line if it holds none or is damaged."""
    facts = _build(Facts, _parse(_load(folder / FACTS), folder / FACTS), folder / FACTS)
    rounds = [_round(*line) for line in _lines(folder / ROUNDS)]
    path = folder / OUTCOME
    outcome = _build(Outcome, _parse(_load(path), path), path) if path.exists() else None
    return Run(facts, rounds, outcome, tuple(_build(Happened, *line) for line in _lines(folder / MISHAPS)))


def document(folder: Path) -> dict[str, Any]:
    """Return the files of the run in `folder` as one JSON value. Raises StoreError."""
    return {
        "facts": _parse(_load(folder / FACTS), folder / FACTS),
        "outcome": _parse(_load(folder / OUTCOME), folder / OUTCOME),
        "rounds": [line for line, _ in _lines(folder / ROUNDS)],
        "mishaps": [line for line, _ in _lines(folder / MISHAPS)],
    }


def score(record: RoundRecord, metric: str) -> float | None:
    """The score of the model after a round: not finite if it diverged, None if it was not evaluated."""
    return record.scores.get(metric)


def score_text(value: float | None, metric: str, unit: str) -> str:
    """A score in words: `92.41 %` or `18.43 cycles`."""
    if value is None:
        return "—"
    if not math.isfinite(value):
        return "diverged"
    if metric == "accuracy":
        return f"{100 * value:.2f} %"
    return f"{number_text(value, 2)} {unit}".rstrip()


def number_text(value: float, digits: int) -> str:
    """A number of readable size with `digits` decimals, and any other in scientific notation."""
    if not math.isfinite(value):
        return "diverged"
    return f"{value:.{digits}f}" if value == 0 or 10**-digits <= abs(value) < 10**6 else f"{value:.3g}"


def size_text(count: float) -> str:
    """Bytes in words, in powers of 1000: `1.24 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if abs(count) < KB:
            return f"{count:.3g} {unit}"
        count /= KB
    return f"{count:,.2f} GB"


def columns(metric: str) -> tuple[str, ...]:
    """The headings of `cells`."""
    return ("round", "called", "reported", "late", metric, "train loss", "kB up", "kB down", "seconds")


def cells(record: RoundRecord, metric: str, unit: str) -> tuple[str, ...]:
    """One round as a row: the same in the terminal and in the report."""
    return (
        str(record.round),
        str(record.called),
        str(record.reported),
        str(record.late),
        score_text(score(record, metric), metric, unit),
        number_text(record.train_loss, 4) if record.reported else "—",
        f"{record.bytes_up / KB:,.0f}",
        f"{record.bytes_down / KB:,.0f}",
        f"{record.seconds:.1f}",
    )


def _encode(table: Mapping[str, Any], indent: int | None = None) -> bytes:
    text = json.dumps(_finite(table), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "replace") + b"\n"


def _finite(value: Any) -> Any:
    """Return JSON values with null for each number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _load(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise StoreError(f"{path} is larger than {size_text(MAX_BYTES)}: it is not one of a run's files")
        return path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: {path.parent} is not the folder of a run") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None


def _parse(data: bytes, place: Path | str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise StoreError(f"{place} is damaged: it is not JSON") from None


def _build(cls: type[T], table: object, place: Path | str) -> T:
    try:
        return build(cls, table, strict=False)
    except Mismatch as error:
        raise StoreError(f"{place} is damaged: {error}") from None


def _lines(path: Path) -> list[tuple[object, str]]:
    """Return the JSON value of each line and where it stands; none where there is no such file."""
    # What follows the last newline is a line that an interruption tore.
    lines = _load(path).split(b"\n")[:-1] if path.exists() else []
    places = [f"{path}, line {number}" for number in range(1, len(lines) + 1)]
    return [(_parse(line, place), place) for line, place in zip(lines, places, strict=True)]


def _round(table: object, place: str) -> RoundRecord:
    """A round as it was written, null meaning not a number."""
    if not isinstance(table, dict) or not isinstance(scores := table.get("scores", {}), dict):
        raise StoreError(f"{place} is damaged: it is not a round")
    lost = [key for key, value in scores.items() if value is None]
    diverged = "train_loss" in table and table["train_loss"] is None
    patched = table | {"scores": scores | dict.fromkeys(lost, 0.0)} | ({"train_loss": 0.0} if diverged else {})
    found = _build(RoundRecord, patched, place)
    return replace(
        found,
        train_loss=math.nan if diverged else found.train_loss,
        scores=found.scores | dict.fromkeys(lost, math.nan),
    )
