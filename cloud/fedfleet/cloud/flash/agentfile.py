"""A device's settings, read by the very agent that will read them on the board: the bundle's, in its own process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfleet.wire.errors import SettingsError

MAX_UNPACKED = 64 * 2**20
REFUSED = 2
READ = """
import json, sys
from pathlib import Path
from fedfleet.edge.settings import load_agent
from fedfleet.wire.errors import FedfleetError
try:
    settings, _ = load_agent(Path(sys.argv[1]))
except FedfleetError as error:
    print(error)
    sys.exit(2)
claim = settings.enrol.claim if hasattr(settings, "enrol") else ""
print(json.dumps([settings.device, settings.fleet, settings.state, claim]))
"""


@dataclass(frozen=True)
class AgentFile:
    """A settings file that the agent takes. `data` is the file, the rest is what the agent reads in it."""

    device: str
    fleet: str
    state: str
    claim: str
    data: bytes


def load(path: Path, bundle: Mapping[str, bytes]) -> AgentFile:
    """Return the settings in `path`; raises SettingsError with the agent's own words where it refuses them."""
    with tempfile.TemporaryDirectory() as folder:
        _unpack(bundle, folder)
        paths = ":".join(filter(None, (folder, os.environ.get("PYTHONPATH", ""))))
        done = subprocess.run(
            [sys.executable, "-P", "-c", READ, str(path)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
            check=False,
        )
    if done.returncode == REFUSED:
        raise SettingsError(done.stdout.strip())
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no word why"]
        raise SettingsError(f"the agent in the bundle does not start: {words[-1]}; make the bundle again")
    device, fleet, state, claim = json.loads(done.stdout)
    return AgentFile(device, fleet, state, claim, path.read_bytes())


def _unpack(bundle: Mapping[str, bytes], folder: str) -> None:
    """Unpack the agent's wheel; without one, the agent that is installed here will do."""
    for name, data in bundle.items():
        if name.startswith("wheels/fedfleet_agent-"):
            try:
                with zipfile.ZipFile(io.BytesIO(data)) as wheel:
                    if sum(member.file_size for member in wheel.infolist()) > MAX_UNPACKED:
                        raise SettingsError(f"{name}: unpacks to more than {MAX_UNPACKED} bytes; make the bundle again")
                    wheel.extractall(folder)
            except zipfile.BadZipFile:
                raise SettingsError(f"{name}: not a wheel; make the bundle again") from None
