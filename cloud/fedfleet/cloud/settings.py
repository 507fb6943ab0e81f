"""The aggregator's settings file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.cloud.strategies import strategy
from fedfleet.wire.codecs import codec
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan
from fedfleet.wire.record import require
from fedfleet.wire.settings import Broker, load
from fedfleet.wire.topics import NAME


@dataclass(frozen=True)
class Rounds:
    """How rounds are run: `total` of them, each calling a `share` of the fleet, none before `devices` are there.

    A round closes when all that were called have reported, or after `deadline` seconds if at least `quorum` have.
    `downlink` is the codec by which devices that have the last weights get the next ones; all get them whole without.
    """

    total: int = 20
    devices: int = 1
    share: float = 1.0
    quorum: int = 1
    deadline: float = 600.0
    downlink: str = ""

    def __post_init__(self) -> None:
        require(self.total >= 1, "total must be at least 1")
        require(self.devices >= 1, "devices must be at least 1")
        require(0 < self.share <= 1, "share must be above 0 and at most 1")
        require(self.quorum >= 1, "quorum must be at least 1")
        require(self.deadline > 0, "deadline must be above 0 seconds")


@dataclass(frozen=True)
class Evaluation:
    """Held-out data of the cloud's own, as `npz:FILE` or `csv:FILE?label=COL`; none where `data` is empty."""

    data: str = ""


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

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.fleet) is not None, "fleet must be 1 to 36 characters of a-z, 0-9 and -")


def load_aggregator(path: Path) -> AggregatorSettings:
    """Return the settings in `path`, names of strategy and codec checked. Raises SettingsError."""
    settings = load(path, AggregatorSettings)
    for key, known, value in (
        ("strategy", strategy, settings.strategy),
        ("plan.codec", codec, settings.plan.codec),
        ("rounds.downlink", codec, settings.rounds.downlink or "float32"),
    ):
        try:
            known(value)
        except SettingsError as error:
            raise SettingsError(f"{path}: {key}: {error}") from None
    if contradiction := _contradiction(settings):
        raise SettingsError(f"{path}: {contradiction}")
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
    return ""
