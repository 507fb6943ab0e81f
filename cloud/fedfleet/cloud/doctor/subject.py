"""The cloud's side as doctor looks at it: an aggregator's settings, or an authority's folder, and one talk at most."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedfleet.cloud import schema
from fedfleet.cloud.identity import folder
from fedfleet.cloud.identity.folder import Fleet
from fedfleet.cloud.settings import AggregatorSettings
from fedfleet.wire.chunks import NAME
from fedfleet.wire.doctor.credentials import Owner
from fedfleet.wire.doctor.kept import user
from fedfleet.wire.doctor.talk import STAY, Say, Talk, talk
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics


class Visitor:
    """Who goes to the broker, by which way, and what he says there."""

    def __init__(self, broker: Broker, name: str, fleet: str, say: Say, stay: float = STAY) -> None:
        self.broker, self.name, self.topics, self.say = broker, name, Topics(fleet), say
        self.owner = Owner(name, broker, user(os.geteuid()), time.time())
        self._stay = stay

    @cached_property
    def talk(self) -> Talk:
        """The one conversation."""
        return talk(self.broker, self.name, self.say, self._stay)


@dataclass
class Cloud:
    """An aggregator: its settings, in `file`, and the way of the aggregator itself to its broker."""

    settings: AggregatorSettings
    file: Path
    visitor: Visitor

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.file.resolve().parent / self.settings.state

    @cached_property
    def runs(self) -> bool:
        """Whether an aggregator holds the state folder; then the broker is left to it. Raises StoreError."""
        return schema.is_held(self.state)


@dataclass
class Authority:
    """An authority's folder, and the way of its operator to the fleet's broker."""

    pki: Path
    fleet: Fleet
    visitor: Visitor


def aggregator(settings: AggregatorSettings, file: Path) -> Cloud:
    """The aggregator with these settings. What it says is a chunk that nobody asks for, and only it hears."""
    topics = Topics(settings.fleet)
    said = Say(topics.chunk(secrets.token_hex(NAME)), b"fedfleet doctor", False, (topics.task,))
    return Cloud(settings, file, Visitor(settings.broker, f"{settings.fleet}-cloud", settings.fleet, said))


def authority(pki: Path, fleet: Fleet) -> Authority:
    """The authority in the folder `pki`. Its operator only reads."""
    topics = Topics(fleet.fleet)
    reads = Say(reads=(topics.task, topics.status()))
    visitor = Visitor(folder.link(pki, fleet, "operator"), f"{fleet.fleet}-operator", fleet.fleet, reads)
    return Authority(pki, fleet, visitor)
