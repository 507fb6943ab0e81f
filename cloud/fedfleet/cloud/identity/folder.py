"""The folder of a fleet's authority: what lies where, and whom it is for. No cryptography in here.

What others read of it: `docs/identity.md` has the list of files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import require
from fedfleet.wire.settings import Broker, load
from fedfleet.wire.topics import NAME

FLEET, LEDGER = "fleet.toml", "identity.sqlite"
HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
CA, CA_KEY, CRL, ACL = "ca.pem", "ca.key", "crl.pem", "acl"


@dataclass(frozen=True)
class Fleet:
    """`fleet.toml`: the fleet's name and where its broker is, by all names and addresses that its certificate has."""

    fleet: str
    hosts: tuple[str, ...]
    port: int = 8883

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.fleet) is not None, "fleet must be 1 to 36 characters of a-z, 0-9 and -")
        require(bool(self.hosts), "hosts must name the broker at least once")
        require(all(map(HOST.fullmatch, self.hosts)), "hosts must be names (in ASCII) and addresses of the broker")
        require(1 <= self.port <= 65535, "port must be 1 to 65535")

    @property
    def text(self) -> str:
        """The file's text."""
        hosts = ", ".join(f'"{host}"' for host in self.hosts)
        return f'fleet = "{self.fleet}"\nhosts = [{hosts}]\nport = {self.port}\n'


def read(pki: Path) -> Fleet:
    """Return what `fedfleet pki init` has written into the folder. Raises SettingsError."""
    if not (pki / FLEET).is_file():
        raise SettingsError(
            f"{pki} is no folder of an authority: {FLEET} is not there; make one by `fedfleet pki init`"
        )
    return load(pki / FLEET, Fleet)


def link(pki: Path, fleet: Fleet, role: str, broker: Broker | None = None) -> Broker:
    """Return how `role` (cloud, enrol, operator) reaches the fleet's broker, or `broker`, with its certificate."""
    certificate, key = (str(pki / f"{role}.{kind}") for kind in ("pem", "key"))
    found = broker or Broker(fleet.hosts[0], fleet.port, tls=True, ca=str(pki / CA))
    return replace(found, certificate=certificate, key=key)
