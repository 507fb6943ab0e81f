"""The messages of a federation: Plan, Task, Update, Receipt, Status. Values only, no I/O.

Read this file first: a Task goes down once a round for the whole fleet, an Update comes up, a Receipt answers it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from fedfleet.wire import frames
from fedfleet.wire.calling import LAP, LAPS, Ability, Needs, ahead
from fedfleet.wire.errors import FrameError
from fedfleet.wire.record import Mismatch, build, plain, require
from fedfleet.wire.topics import DIGEST

T = TypeVar("T")
CHUNK, MAX_BLOB = 64 * 1024, 256 * 1024 * 1024
MAX_ROUND = 2**53 - 1  # JSON readers in other languages keep integers only so far
MAX_METRICS, MAX_ABANDONED = 32, 64
STATES = ("ready", "training", "paused", "asleep", "away", "lost")
OUTCOMES = ("counted", "missing", "refused")
SGD = ("learning_rate", "momentum")
SCALARS = (*SGD, "nesterov", "second_moment", "weight_decay", "proximal", "clip_norm")
SEEN, VERSION = re.compile(r"[ -~]{0,200}"), re.compile(r"[0-9][A-Za-z0-9.+_-]{0,35}")


@dataclass(frozen=True)
class Plan:
    """What a device does with a task: how long, how fast, and how the result is encoded.

    `epochs` passes over the device's examples, or exactly `steps` batches where that is above 0. A step is SGD with
    `momentum`, Nesterov's if `nesterov`, or Adam if `second_moment` is above 0: then that decays the squared gradient,
    and `momentum` the gradient. `weight_decay` is decoupled (Loshchilov and Hutter 2019); `proximal` is FedProx's mu
    (Li et al. 2020, eq. 2); `clip_norm` bounds the gradient's global norm and `time_budget` the seconds of training,
    0 meaning no bound. `before` asks for the metric of that name: the mean loss on what is trained on, before the first
    step. `holdout` is the share of its examples that a device never trains on, the same ones in every round. SCALARS
    names what goes into a step; SGD, what suffices where the rest is 0.
    """

    epochs: int = 1
    steps: int = 0
    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    second_moment: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0
    clip_norm: float = 0.0
    codec: str = "float32"
    time_budget: float = 0.0
    before: bool = False
    holdout: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.epochs <= 10_000 and 0 <= self.steps <= 10_000_000, "epochs and steps must be in range")
        require(self.epochs + self.steps > 0, "epochs or steps must be above 0")
        require(self.learning_rate > 0, "learning_rate must be above 0")
        require(0 <= self.momentum < 1, "momentum must be at least 0 and below 1")
        require(0 <= self.second_moment < 1, "second_moment must be at least 0 and below 1")
        require(not (self.nesterov and self.second_moment), "nesterov goes with SGD: second_moment must then be 0")
        require(self.weight_decay >= 0, "weight_decay must not be negative")
        require(min(self.proximal, self.clip_norm, self.time_budget) >= 0, "a bound must not be negative")
        require(0 <= self.holdout < 1, "holdout must be at least 0 and below 1")


@dataclass(frozen=True)
class Blob:
    """A program or weights by name: the sha256 of its bytes, and how many there are."""

    digest: str
    size: int

    def __post_init__(self) -> None:
        require(DIGEST.fullmatch(self.digest) is not None, "digest must be 64 hexadecimal digits")
        require(0 < self.size <= MAX_BLOB, f"a blob must have 1 to {MAX_BLOB} bytes")

    @property
    def chunks(self) -> int:
        """How many chunks of 64 KiB carry it; the last may be shorter."""
        return -(-self.size // CHUNK)

    @staticmethod
    def of(data: bytes) -> Blob:
        """Return the name of `data`."""
        return Blob(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True)
class Patch:
    """The way to a task's weights from those named `base`: their float32 sum with what `blob` encodes by `codec`."""

    base: str
    codec: str
    blob: Blob

    def __post_init__(self) -> None:
        require(DIGEST.fullmatch(self.base) is not None, "base must be 64 hexadecimal digits")


@dataclass(frozen=True)
class Control:
    """The server's control variate in SCAFFOLD (Karimireddy et al. 2020, algorithm 1), float32[P].

    In it are the changes that devices made to theirs in rounds from `first` on, but for those that were `abandoned`.
    """

    blob: Blob
    first: int
    abandoned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(1 <= self.first <= MAX_ROUND, "first must be at least 1")
        require(len(self.abandoned) <= MAX_ABANDONED, f"more than {MAX_ABANDONED} abandoned rounds")

    def has(self, round_: int) -> bool:
        """Whether what a device contributed to `round_`, which is over, is in it."""
        return round_ >= self.first and round_ not in self.abandoned


@dataclass(frozen=True)
class Task:
    """One round's work for the whole fleet. A newer task supersedes all others: the last round is over.

    But an update of one of the last `staleness` rounds may still count, for less (Nguyen et al. 2022): who has begun to
    train for one of these brings that to its end, and has a receipt, before it turns to the newest.

    Each device decides alone whether it is called (`calls`): the task has a window of a `share` of a lap from `start`
    on, and `needs`. `seed` makes its batches reproducible; an update counts within `deadline` seconds of the task's
    publication. `patch` is a shorter way to the weights, for those who have the weights before. With a `control`, an
    update has the changes of two vectors: the weights, and the device's own control variate.

    With `evaluate` a device says in its update what the task's weights make of its examples: of those that the plan
    holds back, or of all where it holds none back. Without `train` the weights are only to be had: nothing is trained.
    """

    round: int
    program: Blob
    weights: Blob
    plan: Plan
    share: float = 1.0
    seed: int = 0
    deadline: float = 600.0
    patch: Patch | None = None
    start: int = 0
    needs: Needs = field(default_factory=Needs)
    control: Control | None = None
    evaluate: bool = False
    train: bool = True
    staleness: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.round <= MAX_ROUND, "round must be at least 1")
        require(0 < self.share <= 1, "share must be above 0 and at most 1")
        require(0 <= self.seed <= MAX_ROUND, "seed must not be negative")
        require(self.deadline > 0, "deadline must be above 0")
        require(0 <= self.start < LAPS * LAP, "start must be 0 to 2^53 - 1")
        require(0 <= self.staleness <= MAX_ROUND, "staleness must not be negative")

    @property
    def window(self) -> int:
        """How long the task's window is, in 2^-32 of a lap."""
        return max(round(self.share * LAP), 1)

    @property
    def next_start(self) -> int:
        """Where the window of the task after this one begins."""
        return (self.start + self.window) % (LAPS * LAP)

    @property
    def moving(self) -> tuple[Blob, ...]:
        """What the task names that the next one does not: its weights, the patch to them, the control."""
        return (self.weights, *(named.blob for named in (self.patch, self.control) if named))

    @property
    def needed(self) -> tuple[Blob, ...]:
        """What a device trains on: the program, the weights, the control."""
        return (self.program, self.weights, *((self.control.blob,) if self.control else ()))

    def calls(self, device: str, ability: Ability | None = None) -> bool:
        """Whether `device` takes part: each device decides alone, so there is no check-in. A share of 1 is everyone.

        Without its `ability`, whether it would if it has what the task needs.
        """
        able = ability is None or self.needs.met(ability)
        return able and (self.window >= LAP or ahead(self.start, device) < self.window)


@dataclass(frozen=True)
class Update:
    """What one device learned in one round: the encoded difference between its weights and the task's.

    `device` comes from the topic, not from the frame. `metrics` are plain numbers (loss, seconds, bytes).
    """

    round: int
    device: str
    examples: int
    codec: str
    delta: bytes = field(repr=False)
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_report(self.round, self.examples, self.metrics)
        require(0 < len(self.delta) <= MAX_BLOB, f"a delta must have 1 to {MAX_BLOB} bytes")

    @cached_property
    def blob(self) -> Blob:
        """The name of `delta`."""
        return Blob.of(self.delta)


def require_report(round_: int, examples: int, metrics: Mapping[str, float]) -> None:
    """Raise Mismatch unless a device may say so of an update, whether it offers it or sends it."""
    require(1 <= round_ <= MAX_ROUND, "round must be at least 1")
    require(0 < examples <= MAX_ROUND, "examples must be above 0")
    require(len(metrics) <= MAX_METRICS, f"more than {MAX_METRICS} metrics")
    require(all(len(key) <= 32 for key in metrics), "a metric's name is too long")


@dataclass(frozen=True)
class Receipt:
    """To a device: its update of `round` was counted, has parts missing, or was refused and why."""

    round: int
    outcome: str
    missing: tuple[int, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        require(self.outcome in OUTCOMES, f"outcome must be one of {', '.join(OUTCOMES)}")
        require(SEEN.fullmatch(self.reason) is not None, "reason must be at most 200 printable characters")


@dataclass(frozen=True)
class Status:
    """A device's presence, retained: `boot` counts its starts, so that a late will of an older start is told apart.

    A `paused` device may be back at any time, one that is `asleep` will be when its hours come; `reason` says why.
    `declined` is the newest round that the device will not contribute to, for `reason`; 0 for none. `ability`, the
    agent's `version` and what became of a `release` stand in every status, as only the last one is retained.
    """

    state: str
    boot: int
    declined: int = 0
    reason: str = ""
    ability: Ability = field(default_factory=Ability)
    version: str = ""
    release: str = ""

    def __post_init__(self) -> None:
        require(self.state in STATES, f"state must be one of {', '.join(STATES)}")
        require(0 <= self.boot <= MAX_ROUND and 0 <= self.declined <= MAX_ROUND, "counts must not be negative")
        require(all(map(SEEN.fullmatch, (self.reason, self.release))), "at most 200 printable characters are a reason")
        require(not self.version or VERSION.fullmatch(self.version) is not None, "version must begin with a digit")


def seen(text: str) -> str:
    """Return `text` as one line of at most 200 printable characters, as receipts and states carry it."""
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))[:200]


def draw(purpose: str, round_: int, device: str) -> float:
    """Return a number in [0, 1) that all sides draw alike: sha256 of `purpose:round:device`, first 8 bytes / 2^64."""
    digest = hashlib.sha256(f"{purpose}:{round_}:{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def encode(message: Any) -> bytes:
    """Return the frame of a message without a body: a Task, a Receipt, a Status, a Want."""
    return frames.pack({"kind": type(message).__name__.lower(), **plain(message)})


def decode(cls: type[T], frame: bytes) -> T:
    """Return the message of type `cls` in `frame`, of equal ones perhaps the same; raises FrameError if it is none."""
    return _decoded(cls, frame)  # type: ignore[arg-type, no-any-return]


@lru_cache(16)  # many devices in one process are sent the same
def _decoded(cls: type[T], frame: bytes) -> T:
    header, body = frames.unpack(frame)
    if body:
        raise FrameError(f"a {cls.__name__.lower()} has no body")
    return open_header(cls, header)


def open_header(cls: type[T], header: dict[str, Any]) -> T:
    """Return the `cls` that a frame's header describes; raises FrameError."""
    kind = cls.__name__.lower()
    if header.get("kind") != kind:
        raise FrameError(f"expected kind {kind}, got {str(header.get('kind'))[:32]!r}")
    try:
        return build(cls, header, strict=False)
    except Mismatch as error:
        raise FrameError(f"{kind}: {error}") from None
