"""A fleet of containers: the agent's own image, one container a device, limited as boards are."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

from fedfleet.sim.docker import breaking
from fedfleet.sim.docker.client import docker, require
from fedfleet.sim.docker.stack import CONFIGURATION, PORT, Stack, archive
from fedfleet.sim.fleet import LOG, device_id
from fedfleet.sim.mishaps import Mishap
from fedfleet.wire.errors import SettingsError

KEEPALIVE = 10  # seconds: a device off the network is missed after 15
GLANCE = 1.0


class DockerFleet:
    """Agents in containers. What a device has learned from lies in its container alone, and goes with it."""

    def __init__(
        self,
        folder: Path,
        devices: int,
        fleet: str,
        say: Callable[[str], None],
        mishaps: Sequence[Mishap] = (),
    ) -> None:
        """Start `devices` agents on the stores that `fill` made in `folder`, which are moved into them.

        What `mishaps` will take is made ready. Raises SettingsError where docker is missing or fails, with nothing left
        behind.
        """
        from fedfleet.sim.docker.keys import keys  # here and not at the top: it needs cryptography

        engine = require()
        names = list(map(device_id, range(devices)))
        self._folder = folder
        # runs of the same second, in other folders, have the same name
        self._stack = Stack(f"fedfleet-{fleet}-{token_hex(3)}", folder.parent, names)
        with ExitStack() as down:
            down.callback(self._stack.close)
            place = Path(down.enter_context(TemporaryDirectory()))
            say(f"docker {engine}: building the images of agent and broker, which takes minutes the first time")
            self._stack.build()
            breaking.prepare(mishaps)
            found = keys(place, fleet, names, PORT, CONFIGURATION)
            given = {name: self._given(name, fleet, found.authority, found.devices[name]) for name in names}
            port = self._stack.up({"broker": archive({}, {".": found.broker}), **given})
            self._ids = self._stack.containers()
            self._down = down.pop_all()
        self.broker = replace(found.cloud, port=port, keepalive=KEEPALIVE)
        self.name = f"mosquitto in a container, docker {engine}"
        self._looked, self._gone = -GLANCE, list[str]()

    def _given(self, device: str, fleet: str, authority: str, identity: str) -> bytes:
        """Return what a device's container begins with; its examples are nowhere else then."""
        settings = (
            f'device = "{device}"\nfleet = "{fleet}"\n\n'
            f'[broker]\nhost = "broker"\nport = {PORT}\nkeepalive = {KEEPALIVE}\ntls = true\n'
            'ca = "ca.pem"\ncertificate = "state/identity.pem"\nkey = "state/identity.pem"\n'
        )
        texts = {"agent.toml": settings, "ca.pem": authority, "state/identity.pem": identity}
        found = archive(texts, {"state": self._folder / device / "state"})
        shutil.rmtree(self._folder / device / "state")
        return found

    def step(self) -> None:
        """Nothing: containers run by themselves."""

    def gone(self) -> list[str]:
        """Return the devices whose container has ended, as of a moment ago."""
        if time.monotonic() - self._looked >= GLANCE:
            states = self._stack.states()
            self._gone = [device for device in self._stack.devices if states.get(device) in ("exited", "dead", None)]
            self._looked = time.monotonic()
        return self._gone

    def kill(self, devices: Iterable[str]) -> None:
        """End these at once and for good."""
        docker("kill", *(self._ids[device] for device in devices))

    def afflict(self, mishap: Mishap, devices: Sequence[str]) -> str:
        """Have it go wrong for these devices."""
        return breaking.afflict(mishap, self._chosen(devices), self._stack.project)

    def relieve(self, mishap: Mishap, devices: Sequence[str]) -> str:
        """Have it end."""
        return breaking.relieve(mishap, self._chosen(devices), self._stack.project)

    def close(self) -> None:
        """Keep what the devices have said, and take all down."""
        places = {device: self._folder / device / LOG for device in self._stack.devices}
        for service, place in (*places.items(), ("broker", self._folder.parent / "mosquitto.log")):
            with suppress(SettingsError, OSError):
                place.write_text(docker("logs", self._ids[service]))
        self._down.close()

    def _chosen(self, devices: Sequence[str]) -> dict[str, str]:
        return {device: self._ids[device] for device in devices}
