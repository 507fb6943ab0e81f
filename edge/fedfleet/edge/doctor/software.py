"""The LiteRT runtime, tried in a process of its own, and the service that starts the agent."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fedfleet.edge.doctor.device import Device
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine

PATIENCE = 60.0  # seconds; a small board takes some to load a runtime
TRIAL = [sys.executable, "-m", "fedfleet.edge.doctor.trial"]
LAST = {"armv6l": (3, 11), "armv7l": (3, 11)}  # the last Python that there is a runtime for, where that is not ours

NO_NUMPY = Cause(
    "runtime-numpy-missing", "numpy is not installed", "pip install 'fedfleet[edge]', or run install.sh again"
)
NONE = Cause(
    "runtime-missing", "no LiteRT runtime is installed",
    "pip install ai-edge-litert (64-bit), or tflite-runtime (32-bit, Python 3.11); or run install.sh again",
)  # fmt: skip
NO_SUCH = Cause("runtime-no-such", "there is no LiteRT runtime for this system", "use a 64-bit system on this board")
NUMPY_2 = Cause(
    "runtime-numpy-2", "tflite-runtime is built for numpy 1, and numpy 2 is installed", "pip install 'numpy<2'"
)
BROKEN = Cause(
    "runtime-broken", "the runtime does not load, or does not run a program", "install it anew for this processor"
)
RUNTIME = (NO_NUMPY, NONE, NO_SUCH, NUMPY_2, BROKEN)

UNIT_NAME = "fedfleet-agent.service"
UNIT_FILES = [f"{folder}/systemd/system/{UNIT_NAME}" for folder in ("etc", "usr/lib", "lib")]
UNIT_MISSING = Cause(
    "unit-missing", "the agent is installed here, its service is not", "run /usr/lib/fedfleet/install.sh again"
)
UNIT_DISABLED = Cause(
    "unit-disabled", "the service does not start with the board", "systemctl enable --now fedfleet-agent"
)
UNIT_FAILED = Cause("unit-failed", "the service has failed", "journalctl -u fedfleet-agent says why")
UNIT_STOPPED = Cause("unit-stopped", "the service does not run", "systemctl start fedfleet-agent")
UNIT_RESTARTS = Cause(
    "unit-restarts", "the service ends and is started again, time after time", "journalctl -u fedfleet-agent says why"
)
UNIT = (UNIT_MISSING, UNIT_DISABLED, UNIT_FAILED, UNIT_STOPPED, UNIT_RESTARTS)
RESTARTS = 5


def runtime(_device: Device) -> Finding:
    """Whether a program can be run here; what loads it might end, so that is another process."""
    try:
        ended = subprocess.run(TRIAL, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return failed(BROKEN, f"it did not come to an end within {PATIENCE:g} s")
    if ended.returncode < 0:
        return failed(BROKEN, f"{signal.Signals(-ended.returncode).name} ended it")
    lines = ended.stdout.decode(errors="replace").splitlines()
    try:
        said = dict(json.loads(lines[-1]))
    except (ValueError, IndexError):
        last = ended.stderr.decode(errors="replace").strip().splitlines()
        return failed(BROKEN, last[-1][:160] if last else "it said nothing")
    return judged(said, platform.machine(), sys.version_info[:2])


def judged(said: dict[str, str], machine: str, python: tuple[int, int]) -> Finding:
    """What the trial's words come to on such a processor under such a Python."""
    name, numpy, wrong = said["runtime"], said["numpy"], said["wrong"]
    if not numpy:
        return failed(NO_NUMPY, wrong)
    if not name:
        if python > LAST.get(machine, python):
            return failed(NO_SUCH, f"{machine} with Python {python[0]}.{python[1]}")
        return failed(NONE, "neither ai-edge-litert nor tflite-runtime is installed")
    if name == "tflite_runtime" and int(numpy.partition(".")[0]) >= 2:
        return failed(NUMPY_2, f"tflite-runtime with numpy {numpy}")
    return failed(BROKEN, f"{name}: {wrong}") if wrong else fine(f"{name}, numpy {numpy}")


def unit(device: Device) -> Finding:
    """Whether the board starts the agent by itself, and keeps it."""
    file = next((device.root / path for path in UNIT_FILES if (device.root / path).exists()), None)
    if file is None:
        if (device.root / "usr/lib/fedfleet").is_dir():
            return failed(UNIT_MISSING, f"no {UNIT_NAME}")
        return beside("the agent is not installed as a service")
    if not list(device.root.glob(f"etc/systemd/system/*.wants/{UNIT_NAME}")):
        return failed(UNIT_DISABLED, f"{file} is not enabled")
    if not (device.root / "run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return fine(f"{file}, enabled; systemd does not run here")
    return _running(file)


def _running(file: Path) -> Finding:
    shown = ("show", UNIT_NAME, "--property=ActiveState,Result,NRestarts")
    ended = subprocess.run(["systemctl", *shown], capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = dict(line.partition("=")[::2] for line in ended.stdout.splitlines())
    active, restarts = said.get("ActiveState", "unknown"), said.get("NRestarts", "0")
    if active == "failed":
        return failed(UNIT_FAILED, f"{active}: {said.get('Result', '')}")
    if restarts.isdigit() and int(restarts) >= RESTARTS:
        return failed(UNIT_RESTARTS, f"{active}, started again {restarts} times")
    if active in ("inactive", "deactivating"):
        return failed(UNIT_STOPPED, f"it is {active}")
    return fine(f"{file}, enabled, {active}, started again {restarts} times")
