"""A whole fleet's cloud side in good health: an authority, a broker that goes by it, an aggregator's settings."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from brokers import free_port
from certificates import openssl
from patients import FLEET, said, up
from processes import environment

from fedfleet.cloud.broker.acl import acl
from fedfleet.cloud.identity import opening
from fedfleet.cloud.identity.folder import Fleet
from fedfleet.models.compiled import Compiled, Entry


@dataclass
class Whole:
    """What is changed here before `up` is what doctor meets."""

    folder: Path
    port: int
    top: dict[str, Any] = field(default_factory=dict)
    broker: dict[str, Any] = field(default_factory=dict)
    more: str = ""
    acl: str = ""
    lines: list[str] = field(default_factory=list)
    prefix: list[str] = field(default_factory=list)
    listens: bool = True

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def file(self) -> Path:
        return self.folder / "settings.toml"

    up = up


def whole(folder: Path) -> Whole:
    """All in order; the model is one that nobody can run, which the cloud never does."""
    port = free_port()
    found = Whole(folder, port, acl=acl(FLEET, gossip=False))
    opening.make(found.pki, Fleet(FLEET, ("127.0.0.1", "localhost"), port), time.time())
    layout = (Entry("dense/kernel", (2, 3), 0, 6),)
    Compiled(b"program", np.zeros(6, np.float32), layout, "mse", 8, (2,), (3,)).save(folder / "model")
    found.top = {"fleet": FLEET, "model": "model"}
    found.broker = {"host": "127.0.0.1", "port": port, "tls": True, "ca": str(found.pki / "ca.pem")}
    found.broker |= {"certificate": str(found.pki / "cloud.pem"), "key": str(found.pki / "cloud.key")}
    found.lines = [
        f"listener {port} 127.0.0.1",
        *(f"{what} {found.pki / name}" for what, name in SERVED.items()),
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
    ]
    return found


SERVED = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key", "crlfile": "crl.pem"}


def signed(pki: Path, name: str, out: Path) -> tuple[Path, Path]:
    """A device's certificate and key, by the authority in `pki`."""
    certificate, key, request = (out / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-new", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    by = ("-CA", pki / "ca.pem", "-CAkey", pki / "ca.key", "-CAcreateserial", "-CAserial", out / "serial")
    openssl("x509", "-req", "-in", request, *by, "-days", "700", "-out", certificate)
    return certificate, key


def asked(fleet: Whole, where: Path) -> tuple[int, dict[str, Any]]:
    """What `fedfleet doctor WHERE --json` says: its exit code, and its checks by name."""
    return said(
        [*fleet.prefix, sys.executable, "-m", "fedfleet.cli.main", "doctor", str(where), "--json"], environment()
    )


def fedfleet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the operator's command."""
    command = [sys.executable, "-m", "fedfleet.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())
