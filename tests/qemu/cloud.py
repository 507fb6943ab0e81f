"""The other side of the proof, on the host: authority, broker, aggregator with the enrolment desk, and native devices.

All of it by the operator's own commands, as processes of their own, so that nothing here knows more than an operator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from processes import environment, until

from fedfleet.cloud import fleet
from fedfleet.cloud.fleet import Device
from fedfleet.sim import brokers, datasets, split
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.examples import Examples
from fedfleet.wire.settings import Broker

FLEET = "mill"
GUEST, NATIVE = "pi", ("native-1", "native-2")
SEEN_BY_GUEST = "10.0.2.2"  # what QEMU's own network calls the host
FEDFLEET = (sys.executable, "-m", "fedfleet.cli.main")
MODEL = "from fedfleet.models import zoo\n\n\ndef build():\n    return zoo.digits()\n"
AGGREGATOR = """fleet = "{fleet}"
model = "model"
[identity]
pki = "pki"
[broker]
host = "127.0.0.1"
port = {port}
tls = true
ca = "pki/ca.pem"
certificate = "pki/cloud.pem"
key = "pki/cloud.key"
[rounds]
total = 100000
devices = 3
quorum = 2
deadline = 20
[plan]
steps = 8
"""
AGENT = """device = "{device}"
fleet = "{fleet}"
group = "line-1"
state = "{state}"
[broker]
host = "{host}"
port = {port}
keepalive = 8
tls = true
certificate = "{state}/identity.pem"
key = "{state}/identity.pem"
[enrol]
claim = "{claim}"
[source.folder]
path = "{inbox}"
quiet = 0.5
"""


class Failed(Exception):
    """What a command of the operator's said instead of doing it."""


def fedfleet(*arguments: object) -> str:
    """Return what `fedfleet ARGUMENTS` prints; raises Failed."""
    command = [*FEDFLEET, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600, check=False)
    if ended.returncode:
        raise Failed(f"fedfleet {' '.join(map(str, arguments))}: {(ended.stderr or ended.stdout).strip()[-500:]}")
    return ended.stdout


class Cloud:
    """Authority, broker, aggregator and native devices in one folder; closed, all of them are gone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.pki = folder, brokers.free_port(), folder / "pki"
        self._running = dict[str, subprocess.Popen[bytes]]()

    def __enter__(self) -> Cloud:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running.values()):
            process.terminate()
            process.wait()

    def prepare(self) -> list[Examples]:
        """Make authority, broker's settings and model; returns the examples of the guest and of each native device."""
        named = f"{SEEN_BY_GUEST},127.0.0.1"
        fedfleet("pki", "init", self.pki, "--fleet", FLEET, "--broker", named, "--port", self.port)
        fedfleet("broker", "config", self.pki)
        if os.geteuid() == 0:  # else it would become a user that cannot read what is ours
            settings = self.pki / "mosquitto.conf"
            settings.write_text("user root\n" + settings.read_text())
        (self.folder / "digits.py").write_text(MODEL)
        fedfleet("compile", f"{self.folder / 'digits.py'}:build", "--out", self.folder / "model")
        (self.folder / "settings.toml").write_text(AGGREGATOR.format(fleet=FLEET, port=self.port))
        return split.split("iid", datasets.load("digits", 1), 1 + len(NATIVE), 1)

    def claim(self, device: str, to: Path) -> Path:
        """Write a claim that only `device` may use, and which needs no operator's word."""
        fedfleet("enrol", "claim", self.pki, "--group", "line-1", "--device", device, "--accept", "--out", to)
        return to

    def settings(self, device: str, host: str, state: str, claim: str, inbox: str) -> str:
        """Return `agent.toml` of a device that reaches the broker at `host`."""
        paths = {"state": state, "claim": claim, "inbox": inbox}
        return AGENT.format(device=device, fleet=FLEET, host=host, port=self.port, **paths)

    def start(self, examples: Sequence[Examples]) -> None:
        """Start broker, aggregator and the native devices, which enrol as any device does."""
        broker = self._process("mosquitto", [str(brokers.mosquitto()), "-c", str(self.pki / "mosquitto.conf")])
        brokers.listening(Broker(port=self.port), broker, self.folder / "mosquitto.log")
        self._process("aggregator", [*FEDFLEET, "aggregate", str(self.folder / "settings.toml")])
        for device, part in zip(NATIVE, examples, strict=True):
            self._native(device, part)

    def device(self, name: str) -> Device | None:
        """Return what the aggregator knows of a device."""
        try:
            return next((each for each in fleet.devices(self.folder / "state") if each.device == name), None)
        except FedfleetError:
            return None

    def counted(self, name: str) -> int:
        """In how many rounds updates of that device have been counted."""
        found = self.device(name)
        return found.contributed if found else 0

    def counts(self, name: str, more: int, seconds: float) -> float:
        """Wait until so many more updates of the device are counted, and return the seconds; raises Failed."""
        before, began = self.counted(name), time.monotonic()
        if until(lambda: self.counted(name) >= before + more, seconds):
            return time.monotonic() - began
        known = self.device(name)
        told = f"it is {known.state} ({known.reason})" if known else "the aggregator has never heard of it"
        raise Failed(f"{name} did not contribute to {more} more rounds in {seconds:g} s; {told}; {self.dead()}")

    def missed(self, name: str, seconds: float) -> bool:
        """Wait until the aggregator has been told that the device is gone; return whether it was."""
        return until(lambda: (found := self.device(name)) is not None and found.state == "lost", seconds)

    def certificates(self, name: str) -> int:
        """How many certificates were ever made for that device."""
        shown = json.loads(fedfleet("pki", "show", self.pki, "--json"))["certificates"]
        return sum(each["name"] == name for each in shown)

    def dead(self) -> str:
        """Which of the processes have ended, and their last words."""
        ended = [name for name, process in self._running.items() if process.poll() is not None]
        last = [f"{name} has ended: {(self.folder / f'{name}.log').read_text()[-300:]}" for name in ended]
        return "; ".join(last) or "all processes are alive"

    def _native(self, device: str, part: Examples) -> None:
        home = self.folder / device
        (home / "inbox").mkdir(parents=True)
        save(part, home / "inbox" / "digits.npz")
        self.claim(device, home / "claim.pem")
        (home / "agent.toml").write_text(self.settings(device, "127.0.0.1", "state", "claim.pem", "inbox"))
        self._process(device, [sys.executable, "-m", "fedfleet.edge", "--settings", str(home / "agent.toml")])

    def _process(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
        return self._running[name]


def save(part: Examples, path: Path) -> None:
    """Write examples as a file that devices read."""
    np.savez(path, x=part.x, y=part.y)
