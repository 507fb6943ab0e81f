"""One broker and some devices as a compose project of their own, which is taken down however its owner ends."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedfleet.sim.docker.client import BUILD, ROOT, docker
from fedfleet.wire.errors import BusDown, SettingsError

USER = 10001  # whom the images run as
HOME, CONFIGURATION = "/var/lib/fedfleet", "/etc/fedfleet"  # of a device, of the broker
PORT = 8883
START = 20.0
DOWN = 90.0
SERVICES = "firmware_sim/services.yaml"


class Stack:
    """A project; nothing is in it before `up`. Each device has a volume that goes with it."""

    def __init__(self, project: str, folder: Path, devices: Sequence[str]) -> None:
        """Describe it in `folder`, and have it taken down when this process ends, however it ends."""
        self.project = project
        self.devices = tuple(devices)
        self._file = folder / "compose.json"
        self._file.write_text(json.dumps(described(devices), indent=1))
        command = ["docker", *self._compose("down", "--volumes", "--timeout", "5")]
        with (folder / "docker.log").open("ab") as log:
            # It waits for the end of its input, which comes with `close`, and with our own end.
            self._reaper = subprocess.Popen(
                ["sh", "-c", 'cat >/dev/null; exec "$@"', "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def build(self) -> None:
        """Build the images, or as much of them as has changed. Raises SettingsError."""
        docker(*self._compose("build", "--quiet", "broker", self.devices[0]), seconds=BUILD)

    def up(self, given: Mapping[str, bytes]) -> int:
        """Start all, each service with the archive that it is `given`; returns the broker's port on this machine.

        Raises SettingsError, BusDown.
        """
        docker(*self._compose("create", "--no-build"))
        ids = self.containers()
        for service, archive in given.items():
            place = CONFIGURATION if service == "broker" else HOME
            docker("cp", "-", f"{ids[service]}:{place}", given=archive)
        docker(*self._compose("start", "broker"))
        self._listening(ids["broker"])
        docker(*self._compose("start"))
        return int(docker("port", ids["broker"], f"{PORT}/tcp").splitlines()[0].rpartition(":")[2])

    def containers(self) -> dict[str, str]:
        """Return the container of each service, running or not."""
        shown = '{{.Label "com.docker.compose.service"}} {{.ID}}'
        label = f"label=com.docker.compose.project={self.project}"
        rows = docker("ps", "--all", "--filter", label, "--format", shown).splitlines()
        return {service: one for service, _, one in (row.partition(" ") for row in rows)}

    def states(self) -> dict[str, str]:
        """Return the state of each service's container, as docker names it: running, restarting, exited and so on."""
        shown = '{{.Label "com.docker.compose.service"}} {{.State}}'
        label = f"label=com.docker.compose.project={self.project}"
        rows = docker("ps", "--all", "--filter", label, "--format", shown).splitlines()
        return {service: state for service, _, state in (row.partition(" ") for row in rows)}

    def close(self) -> None:
        """Take all down, volumes as well, and return when that is done."""
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        try:
            self._reaper.wait(DOWN)
        except subprocess.TimeoutExpired:
            raise SettingsError(f"docker compose down takes long; see docker ps, project {self.project}") from None

    def _compose(self, *arguments: str) -> tuple[str, ...]:
        return ("compose", "--project-name", self.project, "--file", str(self._file), *arguments)

    def _listening(self, broker: str) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            try:
                docker("exec", broker, "bash", "-c", f": </dev/tcp/127.0.0.1/{PORT}")
            except SettingsError:
                time.sleep(0.1)
            else:
                return
        raise BusDown(f"the broker's container did not come up: {docker('logs', '--tail', '1', broker)}")


def described(devices: Iterable[str]) -> dict[str, object]:
    """Return the compose file of a project with these devices."""
    base = {"file": str(ROOT / SERVICES)}
    agents = {name: {"extends": base | {"service": "agent"}, "volumes": [f"{name}:{HOME}"]} for name in devices}
    broker = {"extends": base | {"service": "broker"}, "ports": [f"127.0.0.1::{PORT}"]}
    return {
        "services": {"broker": broker | {"volumes": [f"broker:{CONFIGURATION}"]}, **agents},
        # the devices reach the broker and nothing else
        "networks": {"field": {"internal": True}, "server": {}},
        "volumes": {"broker": {}} | {name: {} for name in agents},
    }


def archive(texts: Mapping[str, str], folders: Mapping[str, Path]) -> bytes:
    """Return a tar archive of files that belong to the images' user: `folders` and `texts`, by their names in it."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = USER
        member.uname = member.gname = ""
        member.mode = 0o700 if member.isdir() else 0o600
        return member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, place in folders.items():
            tar.add(place, name, filter=owned)
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(owned(member), io.BytesIO(text.encode()))
    return buffer.getvalue()
