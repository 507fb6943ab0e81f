"""Who may read and write what, in mosquitto's own words. A user is the common name of a certificate.

Patterns hold for all users, the cloud and the claims of boards among them; `%u` is a whole level of the topic, so a
device's name reaches exactly its own topics. What nobody is given is denied, and `deny` comes before all else.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedfleet.wire.topics import ROOT, name

READ = ("task", "blob/+", "chunk/+", "release", "device/%u/receipt", "enrol/%u/answer")
WRITE = ("device/%u/update", "device/%u/want", "enrol/%u/request")
BOTH = ("device/%u/status",)  # read as well: so `fedfleet doctor` finds out whether what a device writes arrives
GOSSIP_READ = ("device/+/status", "device/+/model/#")
GOSSIP_WRITE = ("device/%u/model/#",)


def acl(fleet: str, *, gossip: bool = False) -> str:
    """Return the access list of a fleet, `gossip` for one whose devices read each other's models.

    Raises SettingsError for a name that cannot stand in a topic.
    """
    top = f"{ROOT}/{name(fleet, 'fleet name')}"
    read, write = READ + gossip * GOSSIP_READ, WRITE + gossip * GOSSIP_WRITE
    cloud, enrol, operator = (f"{fleet}-{role}" for role in ("cloud", "enrol", "operator"))
    parts = [
        f"# Who may do what in fleet {fleet}: written by `fedfleet broker config`, and at its end by each revocation.",
        _user(cloud, f"readwrite {top}/#"),
        _user(enrol, f"readwrite {top}/enrol/#", f"deny {top}/device/{enrol}/#"),
        # the patterns give everybody topics to write, and an operator shall write none
        _user(
            operator,
            f"read {top}/#",
            "read $SYS/#",
            f"deny {top}/device/{operator}/#",
            f"deny {top}/enrol/{operator}/#",
        ),
        _lines("pattern read", top, read),
        _lines("pattern write", top, write),
        _lines("pattern readwrite", top, BOTH),
    ]
    return "\n\n".join(parts) + "\n"


def _user(who: str, *rights: str) -> str:
    return "\n".join([f"user {who}", *(f"topic {right}" for right in rights)])


def _lines(right: str, top: str, topics: Iterable[str]) -> str:
    return "\n".join(f"{right} {top}/{topic}" for topic in topics)
