"""The aggregator's settings file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.cloud.federated import SCORES
from fedfleet.cloud.refine.plan import Refining, contradiction
from fedfleet.cloud.strategies import outdated, strategy
from fedfleet.wire.calling import Needs
from fedfleet.wire.codecs import codec
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan
from fedfleet.wire.record import require
from fedfleet.wire.settings import Broker, load
from fedfleet.wire.topics import NAME

OVER = 1.3  # that of Bonawitz et al. 2019, "Towards Federated Learning at Scale"


@dataclass(frozen=True)
class Rounds:
    """How rounds are run: `total` of them, none before `devices` are there; only devices with all `tags` and at least
    `memory_mib` are called.

    A round calls a `share` of the fleet and closes when all that were called have reported; or, where `cohort` is above
    0, it calls `over` times as many devices and closes `grace` seconds after so many updates. In any case it closes
    after `deadline` seconds if at least `quorum` have reported. With a `buffer` above 0 it calls all and closes when it
    has so many updates (FedBuff; Nguyen et al. 2022); those for the last `staleness` rounds count in it as well, for
    less. `downlink` is the codec by which devices that have the
    last weights get the next ones; all get them whole without.
    """

    total: int = 20
    devices: int = 1
    share: float = 1.0
    quorum: int = 1
    deadline: float = 600.0
    downlink: str = ""
    cohort: int = 0
    over: float = OVER
    grace: float = 0.0
    tags: tuple[str, ...] = ()
    memory_mib: int = 0
    buffer: int = 0
    staleness: int = 0

    def __post_init__(self) -> None:
        require(self.total >= 1, "total must be at least 1")
        require(self.devices >= 1, "devices must be at least 1")
        require(0 < self.share <= 1, "share must be above 0 and at most 1")
        require(self.quorum >= 1, "quorum must be at least 1")
        require(self.deadline > 0, "deadline must be above 0 seconds")
        require(self.cohort >= 0, "cohort must be 0, for all that are called, or a number of updates")
        require(not self.cohort or self.share == 1, "share and cohort both say how many are called: set one of them")
        require(not self.cohort or self.quorum <= self.cohort, "quorum must be at most cohort, at which a round closes")
        require(1 <= self.over <= 100, "over must be 1 to 100 times the cohort")
        require(0 <= self.grace < self.deadline, "grace must be at least 0 seconds and below the deadline")
        require(self.buffer >= 0, "buffer must be 0, for synchronous rounds, or a number of updates")
        require(not self.buffer or not self.cohort, "cohort and buffer both say when a round is full: set one of them")
        require(not self.buffer or self.share == 1, "a buffer takes updates of all: leave out share")
        require(not self.buffer or self.quorum <= self.buffer, "quorum must be at most buffer, at which a round closes")
        require(self.staleness >= 0, "staleness must be 0, or a number of rounds")
        require(bool(self.buffer) or not self.staleness, "staleness is of no use without buffer")
        unused = self.over != OVER or self.grace > 0
        require(bool(self.cohort) or not unused, "over and grace are of no use without cohort")
        _ = self.needs

    @property
    def needs(self) -> Needs:
        """What a device must have to be called; raises Mismatch."""
        return Needs(self.tags, self.memory_mib)


@dataclass(frozen=True)
class Evaluation:
    """How models are scored, and which get the name `promoted`.

    `data` is held-out data of the cloud's own, as `npz:FILE` or `csv:FILE?label=COL`; none where it is empty. Devices
    evaluate every model that is the `every`-th on their own examples (`plan.holdout`), none where that is 0. `gate` is
    the metric, one of SCORES, by which a model must not be worse than the promoted one by more than `tolerance`, to be
    promoted in its place: on `data` where there is such, else on the devices; nothing is promoted without.
    """

    data: str = ""
    every: int = 0
    gate: str = ""
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        require(self.every >= 0, "every must not be negative")
        require(self.gate in ("", *SCORES), f"gate must be one of {', '.join(SCORES)}")
        require(not self.gate or bool(self.data or self.every), "gate needs scores to go by: set data, or every")
        require(self.tolerance >= 0, "tolerance must not be negative")


@dataclass(frozen=True)
class Metrics:
    """Where the aggregator's numbers go: to Prometheus, which asks at `host` and `port`, nowhere if `port` is 0.

    And to event files in the folder `tensorboard`, which is relative to the settings file; to none where it is empty.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tensorboard: str = ""

    def __post_init__(self) -> None:
        require(bool(self.host), "host must not be empty")
        require(0 <= self.port <= 65535, "port must be 0 to 65535, 0 for none")


@dataclass(frozen=True)
class Combine:
    """On how many replicas updates are combined: GPUs, or parts of the CPU where there are none; to the same bits.

    0: in the aggregator's own process, without TensorFlow; -1: on all GPUs.
    """

    replicas: int = 0

    def __post_init__(self) -> None:
        require(self.replicas >= -1, "replicas must be a number of devices, -1 for all GPUs, or 0 for none")


@dataclass(frozen=True)
class Identity:
    """Whose devices these are: `pki` is the authority's folder, of `fedfleet pki init`, relative to the settings file.

    Devices that it has revoked are shut out. Where its key is there too, the desk is open as long as this runs.
    """

    pki: str = ""


@dataclass(frozen=True)
class Releases:
    """Releases of the agent: the folder `repository` of `fedfleet release`, relative to the settings file, or none."""

    repository: str = ""


@dataclass(frozen=True)
class AggregatorSettings:
    """`settings.toml`. `model` is a folder that `fedfleet compile` wrote; it and `state` are relative to the file."""

    fleet: str
    model: str
    state: str = "state"
    strategy: str = "fedavg"
    seed: int = 0
    broker: Broker = field(default_factory=Broker)
    rounds: Rounds = field(default_factory=Rounds)
    plan: Plan = field(default_factory=Plan)
    evaluation: Evaluation = field(default_factory=Evaluation)
    metrics: Metrics = field(default_factory=Metrics)
    combine: Combine = field(default_factory=Combine)
    refine: Refining = field(default_factory=Refining)
    identity: Identity = field(default_factory=Identity)
    releases: Releases = field(default_factory=Releases)

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.fleet) is not None, "fleet must be 1 to 36 characters of a-z, 0-9 and -")


def load_aggregator(path: Path) -> AggregatorSettings:
    """Return the settings in `path`, names of strategy and codec checked. Raises SettingsError."""
    settings = load(path, AggregatorSettings)
    for key, known, value in (
        ("strategy", strategy, settings.strategy),
        ("strategy", lambda name: strategy(name).plan(settings.plan), settings.strategy),
        ("rounds.staleness", lambda name: outdated(name, settings.rounds.staleness), settings.strategy),
        ("plan.codec", codec, settings.plan.codec),
        ("rounds.downlink", codec, settings.rounds.downlink or "float32"),
    ):
        try:
            known(value)
        except SettingsError as error:
            raise SettingsError(f"{path}: {key}: {error}") from None
    if text := _contradiction(settings):
        raise SettingsError(f"{path}: {text}")
    return settings


def _contradiction(settings: AggregatorSettings) -> str:
    """Return which settings cannot be had together, and what to do; empty where all can."""
    rounds = settings.rounds
    called = math.ceil(round(rounds.share * rounds.devices, 6))
    for key, needed in (("rounds.quorum", rounds.quorum), ("strategy", strategy(settings.strategy).least)):
        if needed > called:
            devices = math.ceil(round(needed / rounds.share, 6))
            share = f", share {rounds.share:g}" if rounds.share < 1 else ""
            calls = f"a round calls about {called} (rounds.devices {rounds.devices}{share})"
            return f"{key} takes {needed} updates, and {calls}; raise rounds.devices to at least {devices}"
    for key in ("data", "model"):
        if settings.refine.kind and not getattr(settings.refine, key):
            return f"refine.{key} is missing: {settings.refine.kind} needs it"
    if text := contradiction(settings.refine, settings.strategy, held_out=bool(settings.evaluation.data)):
        return f"refine: {text}"
    return ""
