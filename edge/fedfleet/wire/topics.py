"""The topics of a fleet. The device id stands in the topic, where the broker's ACL vouches for it.

fedfleet/v1/<fleet>/task                  retained, newest only: Task
fedfleet/v1/<fleet>/blob/<sha256>/<i>     retained chunks of programs and weights
fedfleet/v1/<fleet>/device/<id>/status    retained birth, last will: Status
fedfleet/v1/<fleet>/device/<id>/update    parts of an Update
fedfleet/v1/<fleet>/device/<id>/receipt   to the device: Receipt
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedfleet.wire.errors import FrameError, SettingsError

ROOT = "fedfleet/v1"
NAME = re.compile(r"[a-z0-9-]{1,36}")
DIGEST = re.compile(r"[0-9a-f]{64}")
INDEX = re.compile(r"0|[1-9][0-9]{0,5}")


def name(text: str, what: str) -> str:
    """Return `text` if it may stand in a topic (1 to 36 of a-z, 0-9, -); raises SettingsError that says `what`."""
    if not NAME.fullmatch(text):
        raise SettingsError(f"{what} {text[:48]!r} must be 1 to 36 characters of a-z, 0-9 and -")
    return text


@dataclass(frozen=True)
class Topics:
    """All topics of one fleet, by name."""

    fleet: str

    def __post_init__(self) -> None:
        name(self.fleet, "fleet name")

    @property
    def task(self) -> str:
        """Where the newest task is retained."""
        return f"{ROOT}/{self.fleet}/task"

    def chunk(self, digest: str, index: int | str = "+") -> str:
        """Where chunk `index` of a blob is retained; a pattern for all of them without `index`."""
        return f"{ROOT}/{self.fleet}/blob/{digest}/{index}"

    def status(self, device: str = "+") -> str:
        """Where a device says that it is there; a pattern for all devices without `device`."""
        return f"{ROOT}/{self.fleet}/device/{device}/status"

    def update(self, device: str = "+") -> str:
        """Where a device sends the parts of its update."""
        return f"{ROOT}/{self.fleet}/device/{device}/update"

    def receipt(self, device: str) -> str:
        """Where a device learns what became of its update."""
        return f"{ROOT}/{self.fleet}/device/{device}/receipt"

    def device(self, topic: str) -> str:
        """Return the device id in a device topic; raises FrameError if there is none."""
        levels = topic.split("/")
        if len(levels) != 6 or levels[:4] != [*ROOT.split("/"), self.fleet, "device"] or not NAME.fullmatch(levels[4]):
            raise FrameError(f"topic {topic[:80]!r} names no device of fleet {self.fleet}")
        return levels[4]

    def part(self, topic: str) -> tuple[str, int]:
        """Return digest and index in a chunk's topic; raises FrameError if it is none."""
        levels = topic.split("/")
        if len(levels) != 6 or levels[:4] != [*ROOT.split("/"), self.fleet, "blob"]:
            raise FrameError(f"topic {topic[:80]!r} names no chunk of fleet {self.fleet}")
        if not DIGEST.fullmatch(levels[4]) or not INDEX.fullmatch(levels[5]):
            raise FrameError(f"topic {topic[:80]!r} has no digest and index")
        return levels[4], int(levels[5])
