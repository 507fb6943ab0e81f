"""The topics of a fleet. The device id stands in the topic, where the broker's ACL vouches for it.

fedfleet/v1/<fleet>/task                  retained, newest only: Task
fedfleet/v1/<fleet>/blob/<sha256>         retained: which chunks a blob of several has
fedfleet/v1/<fleet>/chunk/<name>          retained chunks of programs and weights, named by content
fedfleet/v1/<fleet>/release               retained, newest only: Release
fedfleet/v1/<fleet>/device/<id>/status    retained birth, last will: Status
fedfleet/v1/<fleet>/device/<id>/update    an update that is offered, and its parts
fedfleet/v1/<fleet>/device/<id>/want      what a device waits for in vain
fedfleet/v1/<fleet>/device/<id>/receipt   to the device: Receipt
fedfleet/v1/<fleet>/enrol/<name>/request  from a claim, or a device whose certificate ends: Enrol
fedfleet/v1/<fleet>/enrol/<name>/answer   to who has asked: Enrolled

Where devices learn without a server, and read what their neighbours write:

fedfleet/v1/<fleet>/device/<id>/model/<slot>/<part>   retained: the device's model, announced and in parts
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedfleet.wire.errors import FrameError, SettingsError

ROOT = "fedfleet/v1"
NAME = re.compile(r"[a-z0-9-]{1,36}")
DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK_NAME = re.compile(r"[0-9a-f]{32}")
NOTHING = re.compile(r"(?!)")


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

    @property
    def release(self) -> str:
        """Where it is retained which release of the agent is for whom."""
        return f"{ROOT}/{self.fleet}/release"

    def manifest(self, digest: str) -> str:
        """Where it is retained which chunks the blob `digest` has."""
        return f"{ROOT}/{self.fleet}/blob/{digest}"

    def chunk(self, name: str) -> str:
        """Where the chunk of that name is retained."""
        return f"{ROOT}/{self.fleet}/chunk/{name}"

    def status(self, device: str = "+") -> str:
        """Where a device says that it is there; a pattern for all devices without `device`."""
        return f"{ROOT}/{self.fleet}/device/{device}/status"

    def update(self, device: str = "+") -> str:
        """Where a device offers its update and sends its parts."""
        return f"{ROOT}/{self.fleet}/device/{device}/update"

    def want(self, device: str = "+") -> str:
        """Where a device says what it waits for in vain."""
        return f"{ROOT}/{self.fleet}/device/{device}/want"

    def receipt(self, device: str) -> str:
        """Where a device learns what became of its update."""
        return f"{ROOT}/{self.fleet}/device/{device}/receipt"

    def request(self, name: str = "+") -> str:
        """Where the claim or device `name` asks for a certificate; a pattern for all without `name`."""
        return f"{ROOT}/{self.fleet}/enrol/{name}/request"

    def answer(self, name: str) -> str:
        """Where who has asked for a certificate is answered."""
        return f"{ROOT}/{self.fleet}/enrol/{name}/answer"

    def asking(self, topic: str) -> str:
        """Return who asks for a certificate in a topic of requests; raises FrameError if it is none."""
        levels = topic.split("/")
        if len(levels) != 6 or topic != self.request(levels[4]) or not NAME.fullmatch(levels[4]):
            raise FrameError(f"topic {topic[:80]!r} is none where fleet {self.fleet} asks for certificates")
        return levels[4]

    def model(self, device: str, slot: int | str = "+", part: int | str = "+") -> str:
        """Where a device shows its neighbours its model; slots alternate, so that one round does not hide the last."""
        return f"{ROOT}/{self.fleet}/device/{device}/model/{slot}/{part}"

    def shown(self, topic: str) -> tuple[str, int, str]:
        """Return device, slot and part of a topic where a model is shown; raises FrameError if it is none."""
        levels = topic.split("/")
        if len(levels) != 8 or levels[6] not in ("0", "1") or topic != self.model(levels[4], levels[6], levels[7]):
            raise FrameError(f"topic {topic[:80]!r} shows no model of fleet {self.fleet}")
        return levels[4], int(levels[6]), levels[7]

    def device(self, topic: str) -> str:
        """Return the device id in a device topic; raises FrameError if there is none."""
        levels = topic.split("/")
        if len(levels) != 6 or levels[:4] != [*ROOT.split("/"), self.fleet, "device"] or not NAME.fullmatch(levels[4]):
            raise FrameError(f"topic {topic[:80]!r} names no device of fleet {self.fleet}")
        return levels[4]

    def named(self, topic: str) -> tuple[str, str]:
        """Return `blob` or `chunk`, and the name, of a topic where content is retained; raises FrameError."""
        levels = topic.split("/")
        kind, name = levels[-2:] if len(levels) == 5 and levels[:3] == [*ROOT.split("/"), self.fleet] else ("", "")
        if not {"blob": DIGEST, "chunk": CHUNK_NAME}.get(kind, NOTHING).fullmatch(name):
            raise FrameError(f"topic {topic[:80]!r} names no blob and no chunk of fleet {self.fleet}")
        return kind, name
