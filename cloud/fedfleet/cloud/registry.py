"""Every global model that was ever made: where it comes from, how good it is, which one is in use.

All here reads the journal beside a running aggregator; `promote` writes beside it too. Going back to an older model is
the journal's own (`Journal.roll_back`), which needs the folder for itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.cloud import schema
from fedfleet.cloud.federated import Federated
from fedfleet.cloud.journal import MADE
from fedfleet.cloud.refine.plan import Refinement
from fedfleet.models.compiled import Compiled, load
from fedfleet.wire.errors import SettingsError, StoreError
from fedfleet.wire.messages import Task
from fedfleet.wire.record import build, plain
from fedfleet.wire.topics import NAME

PROMOTED = "promoted"
GREATER_IS_BETTER = {"accuracy": True, "rmse": False, "mae": False, "loss": False}
"""The metrics by which models are compared, the first that both have."""


@dataclass(frozen=True)
class Version:
    """A global model: the round that made it, or the cloud's own training; out of what, and how good it is.

    `before` and `weights` are digests of the weights that its devices began with and of what came of it, program that
    of the device program; empty where an older fedfleet has noted none. `origin` is the version that a rollback went
    back to, or that training began with; `kept` says whether the weights are still on the disk. `scores` are on the
    cloud's data, `federated` says what devices made of it, and `gate` whether it was promoted by that, and why.
    `training` says how the cloud made it, on what data, and `refined` how the cloud refined it, if it did. Times are
    UTC.
    """

    round: int
    state: str
    origin: int | None
    began: str
    ended: str
    strategy: str
    plan: dict[str, Any]
    program: str
    before: str
    weights: str
    contributors: dict[str, int]
    scores: dict[str, float | None]
    federated: Federated | None
    gate: str
    refined: Refinement | None
    names: tuple[str, ...]
    kept: bool
    training: dict[str, Any] | None = None

    @property
    def examples(self) -> int:
        """How many examples its contributors had, together."""
        return sum(self.contributors.values())


def versions(folder: Path) -> list[Version]:
    """Return all models of the journal in `folder`, oldest first; raises StoreError."""
    with schema.beside(folder) as database:
        return _versions(database, folder)


def find(among: list[Version], name: str) -> Version:
    """Return the version of that round or that name; raises SettingsError that lists those which are kept."""
    for version in among:
        if name == str(version.round) or name in version.names:
            return version
    known = ", ".join(str(version.round) for version in among if version.kept) or "none yet"
    raise SettingsError(f"no model {name[:36]!r}; kept are {known}")


def promote(folder: Path, which: str, name: str = PROMOTED, *, force: bool = False) -> Version:
    """Give `name` to a version, which then stays on the disk, unless it is worse than the one that has it now.

    Raises SettingsError with both figures; not with `force`. Raises StoreError.
    """
    require_name(name)
    with schema.beside(folder, writes=True) as database:
        among = _versions(database, folder)
        found = _kept(find(among, which), among)
        holder = next((version for version in among if name in version.names), None)
        if holder is not None and not force:
            _compare(found, holder, name)
        database.execute(f"INSERT OR REPLACE INTO marks VALUES (?, ?, {schema.NOW})", (name, found.round))
    return replace(found, names=tuple(sorted({*found.names, name})))


def require_name(name: str) -> None:
    """Raise SettingsError unless `name` can stand for a version: no number, and what topics take."""
    if NAME.fullmatch(name) is None or name.isdigit():
        raise SettingsError(f"{name[:36]!r} is no name; take 1 to 36 characters of a-z, 0-9 and -, and no number")


def exported(folder: Path, version: Version) -> Compiled:
    """Return the program that made `version` with its weights to start from; raises StoreError."""
    path = folder / "blobs" / version.weights
    data = path.read_bytes() if version.kept and path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != version.weights:
        raise StoreError(f"{path} is missing or damaged; choose a version that is kept, or restore a backup")
    programs = programs_of(folder) / version.program
    if not programs.is_dir():
        raise StoreError(f"{programs} is missing; start the aggregator of this program once, which writes it")
    return load(programs).with_weights(np.frombuffer(data, "<f4").astype(np.float32))


def programs_of(folder: Path) -> Path:
    """Where an aggregator's folder holds the compiled programs that its rounds were of, each by its digest."""
    return folder / "programs"


def drop_programs(folder: Path, current: str) -> None:
    """Remove the programs of which no model is kept, but for that with the digest `current`; raises StoreError."""
    needed = {version.program for version in versions(folder) if version.kept} | {current}
    try:
        for path in list(programs_of(folder).iterdir()):
            if path.name not in needed:
                shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be removed: {error.strerror}; check who owns it") from None


def said(text: str) -> Federated | None:
    """Return what the journal has noted of devices' evaluations."""
    table = json.loads(text)
    return build(Federated, table, strict=False) if table else None


def _refined(text: str) -> Refinement | None:
    table = json.loads(text)
    return build(Refinement, table, strict=False) if table else None


def worse(new: float, old: float, by: str, tolerance: float = 0.0) -> bool:
    """Whether `new` is worse than `old` by more than `tolerance`, as that metric counts."""
    return new < old - tolerance if GREATER_IS_BETTER[by] else new > old + tolerance


def _figures(found: Version, holder: Version) -> tuple[str, float, float]:
    """The metric by which these are compared, the first that both have on the cloud's data, or on devices; and both."""
    on_devices = [version.federated.scores if version.federated else {} for version in (found, holder)]
    for ours, theirs in ((found.scores, holder.scores), on_devices):
        for name in GREATER_IS_BETTER:
            new, old = ours.get(name), theirs.get(name)
            if new is not None and old is not None:
                return name, new, old
    return "", 0.0, 0.0


def _compare(found: Version, holder: Version, name: str) -> None:
    by, new, old = _figures(found, holder)
    if not by:
        raise SettingsError(
            f"model {found.round} and model {holder.round}, which is {name}, have no metric in common; "
            "--force promotes it all the same"
        )
    if worse(new, old, by):
        raise SettingsError(
            f"model {found.round} is worse than model {holder.round}, which is {name}: {by} {new:.4f} against "
            f"{old:.4f}; --force promotes it all the same"
        )


def _kept(version: Version, among: list[Version]) -> Version:
    if not version.kept:
        known = ", ".join(str(other.round) for other in among if other.kept)
        raise SettingsError(f"the weights of model {version.round} are not kept any more; kept are {known or 'none'}")
    return version


def _versions(database: sqlite3.Connection, folder: Path) -> list[Version]:
    contributors: dict[int, dict[str, int]] = {}
    for number, device, examples in database.execute("SELECT round, device, examples FROM updates ORDER BY device"):
        made = contributors.setdefault(number, {})
        made[device] = made.get(device, 0) + examples
    names: dict[int, list[str]] = {}
    for name, number in database.execute("SELECT name, round FROM marks ORDER BY name"):
        names.setdefault(number, []).append(name)
    columns = (
        "round, state, origin, began, ended, strategy, task, made, weights, scores, federated, gate, training, refined"
    )
    rows = database.execute(f"SELECT {columns} FROM rounds WHERE {MADE} ORDER BY round")
    found = []
    for number, state, origin, began, ended, strategy, text, made, kept, scores, federated, gate, how, refined in rows:
        task = build(Task, json.loads(text), strict=False)
        found.append(
            Version(
                round=number,
                state=state,
                origin=origin,
                began=began,
                ended=ended,
                strategy=strategy,
                plan=plain(task.plan),
                program=task.program.digest,
                before=task.weights.digest,
                weights=made or "",
                contributors=contributors.get(number, {}),
                scores=json.loads(scores),
                federated=said(federated),
                gate=gate,
                training=json.loads(how),
                refined=_refined(refined),
                names=tuple(names.get(number, ())),
                kept=kept is not None and (folder / "blobs" / kept).is_file(),
            )
        )
    return found
