"""A board with slots, its agent started by the real `launch`, and bundles of that agent made from this source."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from fedfleet.edge.ota.choice import board
from fedfleet.wire.settings import Broker

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "edge" / "install" / "launch"
FLEET, DEVICE = "mill", "d1"


def wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a wheel that holds `files`, with a RECORD."""
    info = "-".join(path.name.split("-")[:2]) + ".dist-info"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()] + [f"{info}/RECORD,,"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, f"{info}/RECORD": "\n".join(lines).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return path


def bundle(folder: Path, version: str, changed: Mapping[str, str] | None = None, **wheels: Mapping[str, bytes]) -> Path:
    """Make a bundle of the agent as it is here, but for the files `changed`, and of the other `wheels` by name."""
    source = {
        str(path.relative_to(ROOT / "edge")): path.read_bytes() for path in (ROOT / "edge" / "fedfleet").rglob("*.py")
    }
    agent = {**source, **{name: text.encode() for name, text in (changed or {}).items()}}
    return bundle_of(folder, version, {f"fedfleet_agent-{version}": agent, **wheels})


def bundle_of(folder: Path, version: str, wheels: Mapping[str, Mapping[str, bytes]], **fields: str) -> Path:
    """Make a bundle of wheels, by name, whose files are given; `fields` stand in its release.json instead."""
    (folder / "wheels").mkdir(parents=True)
    for name, files in wheels.items():
        whole = name if "-" in name else f"{name}-1.0"
        wheel(folder / "wheels" / f"{whole}-py3-none-any.whl", files)
    return describe(folder, version, **fields)


def describe(folder: Path, version: str, **fields: str) -> Path:
    """Write the release.json of a bundle whose wheels are there."""
    listed = [
        {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in sorted((folder / "wheels").iterdir())
    ]
    here = board()
    facts = {"version": version, "python": here.python, "machine": here.machine, "wheels": listed, **fields}
    (folder / "release.json").write_text(json.dumps(facts))
    return folder


def install(slots: Path, made: Path) -> None:
    """Put a bundle on a board as install.sh does: its slot, and `current`."""
    version = json.loads((made / "release.json").read_text())["version"]
    (slots / version / "site").mkdir(parents=True)
    for path in (made / "wheels").iterdir():
        with zipfile.ZipFile(path) as archive:
            archive.extractall(slots / version / "site")
    (slots / version / "release.json").write_bytes((made / "release.json").read_bytes())
    (slots / "current").symlink_to(version)


class Board:
    """The folder of a board; `tend` starts the agent again whenever it has ended, as its unit would."""

    def __init__(self, folder: Path, broker: Broker, root: Path, more: str = "", release: str = "") -> None:
        self.slots = folder / "slots"
        self.state = folder / "state"
        self.log = folder / "agent.log"
        self.starts = 0
        self.codes: list[int] = []
        self._settings = folder / "agent.toml"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._settings.write_text(
            f'device = "{DEVICE}"\nfleet = "{FLEET}"\n{more}\n[broker]\nhost = "{broker.host}"\nport = {broker.port}\n'
            f'[release]\nroot = "{root}"\n{release}'
        )

    @property
    def current(self) -> str:
        """The version that starts next."""
        return (self.slots / "current").readlink().name

    def environment(self) -> dict[str, str]:
        """What the unit gives `launch`."""
        more = {
            "FEDFLEET_SLOTS": str(self.slots),
            "FEDFLEET_SETTINGS": str(self._settings),
            "FEDFLEET_PYTHON": sys.executable,
        }
        return {**os.environ, **more}

    def tend(self) -> None:
        """Start the agent unless it runs."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self.codes.append(code)
            self._process = None
        if self._process is None:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [str(LAUNCH)], stdout=log, stderr=log, env=self.environment(), start_new_session=True
                )
            self.starts += 1

    def kill(self) -> None:
        """What a watchdog does."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)

    def stop(self) -> int:
        """What the owner does."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(30)
        self._process = None
        return code


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
