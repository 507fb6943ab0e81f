"""A device in good health, its broker and its authority, for tests to break one thing of; and what doctor says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from brokers import free_port, mosquitto
from certificates import Authority
from processes import environment

from fedfleet.edge.data import Store
from fedfleet.wire.examples import Examples

DEVICE, FLEET = "d1", "mill"
TOPICS = f"fedfleet/v1/{FLEET}"
HERE = "IP:127.0.0.1,DNS:localhost"
ACL = f"""
pattern read {TOPICS}/task
pattern read {TOPICS}/blob/+
pattern read {TOPICS}/chunk/+
pattern read {TOPICS}/device/%u/receipt
pattern readwrite {TOPICS}/device/%u/status
pattern write {TOPICS}/device/%u/update
pattern write {TOPICS}/device/%u/want
user {FLEET}-cloud
topic readwrite {TOPICS}/#
"""


def table(values: dict[str, Any]) -> str:
    """A table of TOML, JSON's scalars being its own."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if not isinstance(value, dict))


@contextmanager
def up(subject: Any) -> Iterator[None]:
    """Write the settings of a patient or a whole fleet, and run its broker where there is one."""
    subject.file.write_text(f"{table(subject.top)}{subject.more}\n[broker]\n{table(subject.broker)}")
    if not subject.listens:
        yield
        return
    (subject.folder / "acl").write_text(subject.acl)
    with mosquitto(subject.folder, free_port(), *subject.lines, f"acl_file {subject.folder / 'acl'}"):
        yield


@dataclass
class Patient:
    """A device with settings, state, certificate and broker. What is changed here before `up` is what doctor meets."""

    folder: Path
    authority: Authority
    top: dict[str, Any] = field(default_factory=dict)
    broker: dict[str, Any] = field(default_factory=dict)
    more: str = ""
    lines: list[str] = field(default_factory=list)
    acl: str = ACL
    certificate: tuple[Path, Path] = (Path(), Path())
    prefix: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=environment)
    listens: bool = True

    @property
    def file(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    up = up


def healthy(folder: Path, authority: Authority) -> Patient:
    """A device with which all is well, but that no agent runs."""
    port = free_port()
    own = authority.sign(DEVICE)
    own[1].chmod(0o600)
    server = authority.sign("broker", alternative=HERE)
    patient = Patient(folder, authority, certificate=own)
    patient.top = {"device": DEVICE, "fleet": FLEET}
    patient.broker = {"host": "127.0.0.1", "port": port, "tls": True, "ca": str(authority.ca)}
    patient.broker |= {"certificate": str(own[0]), "key": str(own[1])}
    patient.lines = secure(authority, port, server)
    store = Store.open(patient.state / "examples")
    store.append(Examples(np.zeros((4, 2), np.float32), np.zeros(4, np.int32)))
    return patient


def secure(authority: Authority, port: int, server: tuple[Path, Path]) -> list[str]:
    """A listener for those who have a certificate of `authority`."""
    pair = [f"certfile {server[0]}", f"keyfile {server[1]}", f"cafile {authority.ca}"]
    return [f"listener {port} 127.0.0.1", *pair, "require_certificate true", "use_identity_as_username true"]


def examined(patient: Patient) -> tuple[int, dict[str, Any]]:
    """What `fedfleet-agent doctor --json` says: its exit code, and its checks by name."""
    command = [
        *patient.prefix,
        sys.executable,
        "-m",
        "fedfleet.edge",
        "--settings",
        str(patient.file),
        "doctor",
        "--json",
    ]
    return said(command, patient.environment)


def said(command: list[str], given: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The exit code of a doctor's command, and its checks by name."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=given)
    assert ended.returncode in (0, 2), ended.stderr
    whole = json.loads(ended.stdout)
    assert whole["doctor"] == 1
    assert whole["well"] == (ended.returncode == 0)
    return ended.returncode, {each["check"]: each for each in whole["checks"]}


def diagnoses(checks: dict[str, Any]) -> list[tuple[str, str]]:
    """What failed, and why; every one of them has something seen, and a fix."""
    found = [each for each in checks.values() if each["outcome"] == "failed"]
    assert all(each["seen"] and each["fix"] for each in found)
    return [(each["check"], each["cause"]) for each in found]


def root() -> bool:
    """Whether mounts and owners can be changed."""
    return os.geteuid() == 0
