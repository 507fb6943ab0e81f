"""A fleet whose broker asks for certificates: a real authority, a real mosquitto, devices that enrol."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import brokers
from brokers import free_port

from fedfleet.cloud.identity import authority, folder, opening
from fedfleet.cloud.identity.claims import Terms
from fedfleet.cloud.identity.desk import Desk
from fedfleet.cloud.identity.folder import Fleet
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

FLEET = "pumps"
ACL = """
pattern read fedfleet/v1/pumps/enrol/%u/answer
pattern write fedfleet/v1/pumps/enrol/%u/request
pattern read fedfleet/v1/pumps/task
pattern read fedfleet/v1/pumps/blob/+
pattern read fedfleet/v1/pumps/chunk/+
pattern write fedfleet/v1/pumps/device/%u/status
pattern write fedfleet/v1/pumps/device/%u/update
pattern write fedfleet/v1/pumps/device/%u/want
pattern read fedfleet/v1/pumps/device/%u/receipt

user pumps-cloud
topic readwrite fedfleet/v1/pumps/#

user pumps-enrol
topic readwrite fedfleet/v1/pumps/enrol/#
"""


def made(path: Path, port: int = 8883) -> Path:
    """A new authority in `path`, for a broker on this machine."""
    opening.make(path, Fleet(FLEET, ("127.0.0.1", "localhost"), port), time.time())
    return path


def claim(
    pki: Path, out: Path, *, group: str = "line-3", device: str = "", days: float = 1.0, accepts: bool = True
) -> Path:
    """A claim's file, good for anybody where nothing else is said."""
    ((_, path),) = opening.claims(pki, Terms(group, device, days, accepts), out, 1, time.time())
    return path


@dataclass(frozen=True)
class World:
    """A broker that lets nobody in without a certificate, and the folder of its authority."""

    pki: Path
    broker: subprocess.Popen[bytes]

    def link(self, role: str) -> Broker:
        """How one of the cloud's own reaches it."""
        return folder.link(self.pki, folder.read(self.pki), role)

    def as_(self, pem: Path) -> Broker:
        """How it is reached with one file that has certificate, authority and key."""
        return replace(self.link("enrol"), ca=str(pem), certificate=str(pem), key=str(pem))


@contextmanager
def world(base: Path) -> Iterator[World]:
    """Run mosquitto as `docs/identity.md` has it."""
    port = free_port()
    pki = made(base / "pki", port)
    (pki / folder.ACL).write_text(ACL)
    settings = [
        f"listener {port} 127.0.0.1",
        f"cafile {pki / 'ca.pem'}",
        f"certfile {pki / 'broker.pem'}",
        f"keyfile {pki / 'broker.key'}",
        f"crlfile {pki / 'crl.pem'}",
        f"acl_file {pki / 'acl'}",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
    ]
    with brokers.mosquitto(base, free_port(), *settings) as process:
        yield World(pki, process)


@contextmanager
def desk(world: World, life: timedelta = authority.DEVICE) -> Iterator[Desk]:
    """The desk, for a test to step."""
    bus, ledger = MqttBus(world.link("enrol"), f"{FLEET}-enrol"), Ledger(world.pki)
    try:
        yield Desk(FLEET, authority.of(world.pki, time.time()), ledger, bus, time.time, life)
    finally:
        bus.close()
        ledger.close()


def settings(base: Path, world: World, device: str, *, group: str = "line-3") -> Path:
    """The settings of an agent that has a claim to enrol by."""
    base.mkdir(exist_ok=True)
    path, broker = base / "agent.toml", folder.read(world.pki)
    path.write_text(
        f'device = "{device}"\nfleet = "{FLEET}"\ngroup = "{group}"\n[enrol]\nclaim = "claim.pem"\n[broker]\n'
        f'host = "127.0.0.1"\nport = {broker.port}\ntls = true\n'
        'certificate = "state/identity.pem"\nkey = "state/identity.pem"\n'
    )
    return path


def mode(path: Path) -> int:
    """A file's permissions."""
    return path.stat().st_mode & 0o777
