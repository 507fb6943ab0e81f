"""Refining as values: how and how often it is to be done, what it is given, what became of it. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedfleet.cloud.federated import SCORES
from fedfleet.cloud.strategies import ruled
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples, permutation, read, read_inputs
from fedfleet.wire.record import Mismatch, build, require

KINDS = ("tune", "distil")
KEYS = ("every", "steps", "batch", "learning_rate", "replicas", "gate")
MOST_STEPS, MOST_BATCH, MOST_ROWS = 100_000, 65_536, 2**25
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Refining:
    """How models are refined: by `kind`, one of KINDS, not at all where it is empty; each `every`-th model.

    `data` is the cloud's own, as `npz:FILE` or `csv:FILE?label=COL`, without labels for `distil`; `model` the program's
    Keras model, as FILE.py:FUNCTION. It takes `steps` steps of Adam on `batch` examples each, its `learning_rate`
    falling to 0 by half a cosine, on so many `replicas`, all GPUs where that is 0. With a `gate`, one of SCORES, a
    refined model is taken only if it is not worse by that on the cloud's held-out data.
    """

    kind: str = ""
    data: str = ""
    model: str = ""
    every: int = 1
    steps: int = 100
    batch: int = 64
    learning_rate: float = 0.001
    replicas: int = 0
    gate: str = ""

    def __post_init__(self) -> None:
        require(self.kind in ("", *KINDS), f"kind must be {' or '.join(KINDS)}, not {self.kind[:32]!r}")
        require(bool(self.kind) or not (self.data or self.model or self.gate), "kind is missing: tune or distil")
        require(self.every >= 1, "every must be at least 1, which refines every model")
        require(1 <= self.steps <= MOST_STEPS, f"steps must be 1 to {MOST_STEPS}")
        require(1 <= self.batch <= MOST_BATCH, f"batch must be 1 to {MOST_BATCH}")
        require(self.steps * self.batch <= MOST_ROWS, f"steps times batch must be at most {MOST_ROWS}")
        require(0 < self.learning_rate <= 1, "learning_rate must be above 0 and at most 1")
        require(self.replicas >= 0, "replicas must be 0, for all GPUs, or a number of devices")
        require(self.gate in ("", *SCORES), f"gate must be one of {', '.join(SCORES)}")

    def due(self, models: int) -> bool:
        """Whether the `models`-th model of a federation is to be refined."""
        return bool(self.kind) and models % self.every == 0


class Made(NamedTuple):
    """What a round has made: its number, the `weights` after the server's step, and what its devices made alone.

    Each call of `clients` goes through their models anew, one at a time, in the order of their ids.
    """

    round: int
    weights: Weights
    clients: Callable[[], Iterator[Weights]]


@dataclass(frozen=True)
class Refinement:
    """How a model was refined, for its lineage: `steps` on `batch` of the cloud's `examples` each, with `teachers`.

    `averaged` is the digest of the weights that the server's step had made. They stayed what they were where the
    refined ones were not `taken`; `why` has the scores of both, where a gate looked at them.
    """

    kind: str
    steps: int
    batch: int
    learning_rate: float
    replicas: int
    examples: int
    teachers: int
    averaged: str
    taken: bool
    why: str

    def __str__(self) -> str:
        by = f" by {self.teachers} devices' models" if self.kind == "distil" else ""
        how = f"{self.steps} steps of {self.batch} on {self.examples:,} examples{by}"
        why = f", {self.why}" if self.why else ""
        return f"{self.kind}, {how}: {'taken' if self.taken else 'not taken'}{why}"


class Refined(NamedTuple):
    """The weights to go on with, and how they came about."""

    weights: Weights
    how: Refinement


Refine = Callable[[Made], Refined]


def telling(refine: Refine | None, tell: Callable[[], object]) -> Refine | None:
    """Return `refine` that first calls `tell`, since it takes its time; None for None."""
    if refine is None:
        return None
    chosen = refine

    def told(made: Made) -> Refined:
        tell()
        return chosen(made)

    return told


def parse(text: str) -> Refining:
    """Return what KIND[:KEY=VALUE,...] asks for, as in `tune:every=5,steps=50`; raises SettingsError."""
    kind, _, given = text.partition(":")
    pairs = [part.partition("=") for part in given.split(",") if part]
    if not kind:
        raise SettingsError(f"refine {text[:64]!r}: name what is to be done: {' or '.join(KINDS)}")
    for key, equals, _ in pairs:
        if key not in KEYS or not equals:
            raise SettingsError(f"refine {text[:64]!r}: write KIND or KIND:KEY=VALUE,... with {', '.join(KEYS)}")
    try:
        return build(Refining, {"kind": kind, **{key: _number(value) for key, _, value in pairs}}, strict=True)
    except Mismatch as error:
        raise SettingsError(f"refine {text[:64]!r}: {error}") from None


def contradiction(plan: Refining, strategy: str, *, held_out: bool) -> str:
    """Return what `plan` cannot be had with, and what to do; empty where all is well."""
    if plan.gate and not held_out:
        return "gate needs held-out data to go by: set evaluation.data"
    if plan.kind == "distil" and ruled(strategy):
        return f"distil learns from all devices, also those that {strategy[:32]} keeps out; tune, or leave the rule out"
    return ""


def owned(plan: Refining, spec: str) -> Examples | NDArray[np.float32]:
    """Return the examples that `spec` names; their x alone for `distil`. Raises DataError."""
    return read_inputs(spec) if plan.kind == "distil" else read(spec)


def batches(examples: int, plan: Refining, seed: int, round_: int) -> Iterator[Rows]:
    """Yield the rows of each step: passes over all `examples`, each in an order of its own, one behind the other."""
    size, rest, passed = min(plan.batch, examples), np.empty(0, np.int64), 0
    for _ in range(plan.steps):
        if len(rest) < size:
            rest = np.concatenate([rest, permutation(examples, "refine", seed, round_, passed)])
            passed += 1
        yield rest[:size]
        rest = rest[size:]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
