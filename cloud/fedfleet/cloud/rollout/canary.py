"""A global model that some devices get first: by what they make of it all do, or the promoted one comes back.

The model is made the newest one, and rounds call nobody but the devices with the canary's tags until they have
evaluated it. What is decided follows from the lineage alone (`decided`), so that whoever was killed in between comes to
the same; what is done about it (`settled`) may be done twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fedfleet.cloud import schema
from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federated import Federated
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import PROMOTED, Version, find, promote, said, versions, worse
from fedfleet.cloud.rollout.kept import Kept
from fedfleet.cloud.settings import OVER, Evaluation, Rounds
from fedfleet.wire.calling import Needs
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import require

FILE, FALLBACK = "canary.json", "fallback"


@dataclass(frozen=True)
class Canary:
    """Model `origin`, brought to the devices with all `tags` as model `model`; `before` is the promoted one till then.

    It must have been evaluated by `devices` of them, and be no worse by the metric `by` than `before` was, by more than
    `tolerance`. `ordered` is why its owner has ended it; `ended` what became of it, empty while it goes on.
    """

    model: int
    origin: int
    before: int
    tags: tuple[str, ...]
    by: str
    devices: int = 1
    tolerance: float = 0.0
    ordered: str = ""
    ended: str = ""

    def __post_init__(self) -> None:
        require(bool(self.tags), "a canary needs tags: by these its devices are chosen")
        require(self.devices >= 1, "devices must be at least 1")
        require(self.tolerance >= 0, "tolerance must not be negative")
        _ = Needs(self.tags)


@dataclass(frozen=True)
class Decision:
    """Whether the model goes to everyone, and why, or why not."""

    good: bool
    why: str


def kept(folder: Path) -> Kept[Canary]:
    """Where an aggregator's folder keeps its canary."""
    return Kept(folder, FILE, Canary)


def start(journal: Journal, which: str, evaluation: Evaluation, tags: tuple[str, ...], devices: int = 1) -> Canary:
    """Bring the model `which` to the devices with `tags` first. Raises SettingsError, StoreError.

    What is decided by stands in the settings: `evaluation.gate` and `evaluation.tolerance`.
    """
    if not evaluation.gate:
        raise SettingsError("evaluation.gate is not set: name the metric by which the model is to be judged")
    if open_(journal.folder) is not None:
        raise SettingsError("another model is on its way already; see fedfleet rollout status, or abort it")
    among = versions(journal.folder)
    origin, before = find(among, which), _promoted(among)
    if origin.round == before.round:
        raise SettingsError(f"model {origin.round} is the promoted one")
    if before.federated is None or evaluation.gate not in before.federated.scores:
        raise SettingsError(f"model {before.round}, which is promoted, has no {evaluation.gate} on devices to go by")
    number = journal.last_round() + 1
    found = Canary(number, origin.round, before.round, tags, evaluation.gate, devices, evaluation.tolerance)
    promote(journal.folder, str(before.round), FALLBACK, force=True)  # by which it stays on the disk
    kept(journal.folder).change(lambda _: found)  # first: a model that nothing holds back would go to everyone
    journal.roll_back(origin.round)
    return found


def open_(folder: Path) -> Canary | None:
    """Return the canary that goes on, None where there is none; one that was never brought on its way is none."""
    found = kept(folder).read()
    if found is None or found.ended:
        return None
    with schema.beside(folder) as database:
        query = "SELECT 1 FROM rounds WHERE round = ? AND state = 'rolled back' AND origin = ?"
        return found if database.execute(query, (found.model, found.origin)).fetchall() else None


def order_back(folder: Path, why: str) -> Canary:
    """Have the aggregator take it back, when it next looks. Raises SettingsError where none is on its way."""
    if open_(folder) is None:
        raise SettingsError("no model is on its way")

    def ordered(found: Canary | None) -> Canary:
        assert found is not None
        return replace(found, ordered=why)

    return kept(folder).change(ordered)


def decided(folder: Path, canary: Canary) -> Decision | None:
    """Return what follows from what the devices made of it; None while they have not. Raises StoreError."""
    if canary.ordered:
        return Decision(good=False, why=canary.ordered)
    found, before = _evaluated(folder, canary.model), _evaluated(folder, canary.before)
    if found is None or found.of != canary.model or found.devices < canary.devices:
        return None
    new, old = found.scores.get(canary.by), before.scores.get(canary.by) if before else None
    if new is None or old is None or not math.isfinite(new):
        return Decision(good=False, why=f"no {canary.by} on devices")
    good = not worse(new, old, canary.by, canary.tolerance)
    how = f"{'not ' if good else ''}worse than {old:.4f} of model {canary.before}"
    return Decision(good, f"{canary.by} {new:.4f} on {found.devices} devices, {how}")


def settled(journal: Journal, canary: Canary, decision: Decision) -> Canary:
    """Promote it, or go back to the model that was promoted, and abandon the round that is open. Raises StoreError."""
    folder = journal.folder
    if decision.good:
        promote(folder, str(canary.model), force=True)
    elif not any(each.origin == canary.before and each.round > canary.model for each in versions(folder)):
        journal.roll_back(canary.before)
        promote(folder, str(canary.before), force=True)  # the gate may have thought otherwise, by the cloud's data
    ended = replace(canary, ended=f"{'promoted' if decision.good else 'taken back'}: {decision.why}")
    return kept(folder).change(lambda _: ended)


def confined(federation: Federation, canary: Canary | None) -> Federation:
    """Return the federation whose rounds call the canary's devices alone, all of them, to evaluate its model."""
    if canary is None:
        return federation
    rounds, devices = federation.rounds, canary.devices
    alone: Rounds = replace(
        rounds, tags=tuple(sorted({*rounds.tags, *canary.tags})), devices=devices, quorum=devices, share=1.0,
        cohort=0, over=OVER, grace=0.0, buffer=0, staleness=0,
    )  # fmt: skip
    return replace(federation, rounds=alone, evaluation=replace(federation.evaluation, every=1))


def staged(
    journal: Journal,
    federation: Federation,
    build: Callable[[Federation], Aggregator],
    drive: Callable[[Aggregator, Callable[[], bool]], None],
    say: Callable[[str], None],
) -> Aggregator:
    """Run a federation to its end, its model's canary first; returns the aggregator that is done.

    `build` makes an aggregator on what the journal holds, and `drive` steps it until it is done,
    or what it is given says so.
    """
    while True:
        canary = open_(journal.folder)
        aggregator = build(confined(federation, canary))
        if canary is None:
            drive(aggregator, lambda: False)
            return aggregator
        drive(aggregator, lambda: _decision(journal.folder) is not None)
        decision = _decision(journal.folder)
        if decision is None:
            return aggregator
        say(f"model {canary.model} {settled(journal, *decision).ended}")


def _decision(folder: Path) -> tuple[Canary, Decision] | None:
    canary = open_(folder)
    found = decided(folder, canary) if canary else None
    return (canary, found) if canary and found else None


def _evaluated(folder: Path, model: int) -> Federated | None:
    """What devices made of a model: one row, for it is looked at again and again."""
    with schema.beside(folder) as database:
        rows = database.execute("SELECT federated FROM rounds WHERE round = ?", (model,)).fetchall()
    return said(rows[0][0]) if rows else None


def _promoted(among: list[Version]) -> Version:
    found = next((version for version in among if PROMOTED in version.names), None)
    if found is None:
        raise SettingsError("no model is promoted yet, so there is none to compare with, or to go back to")
    return found
