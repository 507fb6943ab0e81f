"""The device that doctor looks at: its settings, its folders, and one conversation with its broker at most."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedfleet.edge.board import ability
from fedfleet.edge.enrol import reached_by
from fedfleet.edge.running import holder
from fedfleet.edge.settings import AgentSettings
from fedfleet.edge.state import Memory
from fedfleet.wire.doctor.credentials import Owner
from fedfleet.wire.doctor.kept import there, user
from fedfleet.wire.doctor.talk import STAY, Say, Talk, talk
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Status, Task, decode, encode
from fedfleet.wire.record import build
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

NOT_YET = "the device is not enrolled yet, its claim stands in"


@dataclass
class Device:
    """What is known before anything is looked at; `root` is that of the board's files, `stay` in seconds."""

    settings: AgentSettings
    file: Path
    state: Path
    root: Path
    stay: float = STAY

    @cached_property
    def topics(self) -> Topics:
        """Those of its fleet."""
        return Topics(self.settings.fleet)

    @cached_property
    def owner(self) -> Owner:
        """Whose credentials are looked at, by whom, and when."""
        return Owner(self.settings.device, self.broker, user(os.geteuid()), time.time())

    @cached_property
    def claim(self) -> Path | None:
        """The claim file that the settings name."""
        return Path(self.settings.enrol.claim) if self.settings.enrol.claim else None

    @property
    def enrolled(self) -> bool:
        """Whether it goes by a certificate of its own, or needs none."""
        return self.claim is None or there(Path(self.settings.broker.certificate))

    @cached_property
    def broker(self) -> Broker:
        """How the broker is reached, by the claim as long as it stands in."""
        broker = self.settings.broker
        return broker if self.enrolled or self.claim is None else reached_by(broker, self.claim)

    @cached_property
    def agent(self) -> int:
        """The process of the agent that runs here, 0 for none."""
        return holder(self.state) if self.state.is_dir() else 0

    @cached_property
    def say(self) -> Say:
        """What doctor says in the device's name: what the broker has retained of it anyway, that it is away."""
        status = Status(
            "away",
            self._boot(),
            reason="fedfleet-agent doctor was here",
            ability=ability(self.root, self.settings.all_tags),
        )
        topic = self.topics.status(self.settings.device)
        return Say(topic, encode(status), True, (self.topics.task, self.topics.receipt(self.settings.device)))

    @cached_property
    def talk(self) -> Talk:
        """The one conversation, under the device's own name."""
        return talk(self.broker, self.settings.device, self.say, self.stay)

    @property
    def task(self) -> Task | None:
        """The task that the broker has delivered."""
        payload = self.talk.delivered.get(self.topics.task)
        try:
            return decode(Task, payload) if payload else None
        except FrameError:
            return None

    def _boot(self) -> int:
        """The number of the agent's last start."""
        try:
            return build(Memory, json.loads((self.state / "memory.json").read_bytes()), strict=False).boot
        except (OSError, ValueError):
            return 0
