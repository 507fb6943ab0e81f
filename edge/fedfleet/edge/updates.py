"""What an agent asks of whoever updates it; and who does that where updates are off."""

from __future__ import annotations

import math
from typing import Protocol


class Updates(Protocol):
    """Updates of the agent itself, as the agent drives them. None of these raises."""

    version: str
    """The agent's own version, empty where it is not known."""
    said: str
    """What became of the newest release (`wire.release.said`); empty where there is nothing to say."""
    leaving: bool
    """Whether the agent should end, so that it is started again as another version, or anew."""

    def take(self, topic: str, payload: bytes) -> None:
        """Take what came on a topic that none of the agent's own is."""

    def step(self, work: str) -> None:
        """Do the next piece of work, while the agent is `training`, `fetching` for a task, `idle` or `held`."""

    def due(self) -> float:
        """When to step though nothing arrives, by the clock."""

    def finished(self, round_: int) -> None:
        """Learn that the agent has finished its work for a round: trained, or not called."""

    def declined(self, why: str) -> None:
        """Learn that the agent could not do its work for a round."""


class NoUpdates:
    """For an agent that is not updated over the air."""

    said = ""

    def __init__(self, version: str = "", *, leaving: bool = False) -> None:
        self.version = version
        self.leaving = leaving

    def take(self, topic: str, payload: bytes) -> None:
        """Pass it over."""

    def step(self, work: str) -> None:
        """Do nothing."""

    def due(self) -> float:
        """Return never."""
        return math.inf

    def finished(self, round_: int) -> None:
        """Pass it over."""

    def declined(self, why: str) -> None:
        """Pass it over."""
