"""Who may write and read which topics, as a table. What is not in it nobody may."""

from __future__ import annotations

from typing import NamedTuple

from broker.authority import FLEET

CLAIM = "claim-0123456789ab"
CLOUD, ENROL, OPERATOR = "cloud", "enrol", "operator"
ALL = ("pump-1", "pump-2", CLAIM, CLOUD, ENROL, OPERATOR)
TOP = f"fedfleet/v1/{FLEET}"


class Right(NamedTuple):
    """A topic, and the file names of the certificates of those who may write and read it."""

    topic: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]


RIGHTS = (
    Right(f"{TOP}/task", (CLOUD,), ALL),
    Right(f"{TOP}/release", (CLOUD,), ALL),
    Right(f"{TOP}/blob/{'a' * 64}", (CLOUD,), ALL),
    Right(f"{TOP}/chunk/{'b' * 32}", (CLOUD,), ALL),
    Right(f"{TOP}/device/pump-1/status", ("pump-1", CLOUD), ("pump-1", CLOUD, OPERATOR)),
    Right(f"{TOP}/device/pump-1/update", ("pump-1", CLOUD), (CLOUD, OPERATOR)),
    Right(f"{TOP}/device/pump-1/want", ("pump-1", CLOUD), (CLOUD, OPERATOR)),
    Right(f"{TOP}/device/pump-1/receipt", (CLOUD,), ("pump-1", CLOUD, OPERATOR)),
    Right(f"{TOP}/device/pump-1/model/0/0", (CLOUD,), (CLOUD, OPERATOR)),
    Right(f"{TOP}/enrol/pump-1/request", ("pump-1", CLOUD, ENROL), (CLOUD, ENROL, OPERATOR)),
    Right(f"{TOP}/enrol/pump-1/answer", (CLOUD, ENROL), ("pump-1", CLOUD, ENROL, OPERATOR)),
    Right(f"{TOP}/enrol/{CLAIM}/request", (CLAIM, CLOUD, ENROL), (CLOUD, ENROL, OPERATOR)),
    Right(f"{TOP}/enrol/{CLAIM}/answer", (CLOUD, ENROL), (CLAIM, CLOUD, ENROL, OPERATOR)),
    Right(f"{TOP}/device/{FLEET}-operator/status", (CLOUD,), (CLOUD,)),
    Right(f"{TOP}/device/{FLEET}-enrol/status", (CLOUD,), (CLOUD, OPERATOR)),
    Right(f"{TOP}/enrol/{FLEET}-operator/request", (CLOUD, ENROL), (CLOUD, ENROL)),
    Right(f"{TOP}/device/PUMP-1/status", (CLOUD,), (CLOUD, OPERATOR)),
    Right(f"{TOP}/device/pump-1/status/more", (CLOUD,), (CLOUD, OPERATOR)),
    Right(f"{TOP}/device//status", (CLOUD,), (CLOUD, OPERATOR)),
    Right(f"{TOP}/device/pump-1", (CLOUD,), (CLOUD, OPERATOR)),
    Right(f"{TOP}/task/more", (CLOUD,), (CLOUD, OPERATOR)),
    Right("fedfleet/v1/another/task", (), ()),
    Right("fedfleet/v1/another/device/pump-1/status", (), ()),
    Right("elsewhere", (), ()),
    Right("$CONTROL/dynamic-security/v1", (), ()),
)
GOSSIP = (
    Right(f"{TOP}/device/pump-1/model/0/0", ("pump-1", CLOUD), ALL),
    Right(f"{TOP}/device/pump-1/status", ("pump-1", CLOUD), ALL),
    Right(f"{TOP}/device/pump-1/update", ("pump-1", CLOUD), (CLOUD, OPERATOR)),
    Right(f"{TOP}/device/pump-1/receipt", (CLOUD,), ("pump-1", CLOUD, OPERATOR)),
)


def patterns(topic: str) -> tuple[str, ...]:
    """All ways to ask for a topic: by its name, by wildcards, shared with others."""
    levels = topic.split("/")
    one = "/".join([*levels[:4], "+", *levels[5:]]) if len(levels) > 5 else "/".join([*levels[:-1], "+"])
    any_ = "/".join("+" if not level.startswith("$") else level for level in levels)
    below = "/".join([*levels[:-1], "#"])
    return (topic, one, any_, below, "#", "fedfleet/#", f"$share/thieves/{topic}", "$share/thieves/#")
