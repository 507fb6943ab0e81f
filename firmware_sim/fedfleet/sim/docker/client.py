"""The docker command: run, and its failures in one line. Nothing here installs or configures it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from fedfleet.wire.errors import SettingsError

INSTALL = (
    "install Docker Engine and version 2 of its compose plugin (Debian 13: apt install docker.io docker-compose; "
    "Ubuntu: apt install docker.io docker-compose-v2)"
)
PATIENCE = 120.0
BUILD = 1800.0
ROOT = Path(__file__).resolve().parents[4]
NEEDED = ("edge/Dockerfile", "cloud/broker.Dockerfile", "firmware_sim/services.yaml")


def docker(*arguments: str, given: bytes = b"", seconds: float = PATIENCE) -> str:
    """Run `docker` and return what it printed; raises SettingsError with the last line of what it complained of."""
    what = f"docker {' '.join(arguments[:2])}"
    try:
        done = subprocess.run(
            ["docker", *arguments],
            input=given,
            capture_output=True,
            timeout=seconds,
            check=False,
            start_new_session=True,  # Ctrl-C is for us: we end them in order
        )
    except FileNotFoundError:
        raise SettingsError(f"docker is not installed; {INSTALL}") from None
    except subprocess.TimeoutExpired:
        raise SettingsError(f"{what} did not end within {seconds:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise SettingsError(f"{what}: {said[-1] if said else f'exit code {done.returncode}'}")
    printed = done.stdout + done.stderr if arguments[0] == "logs" else done.stdout
    return printed.decode(errors="replace").strip()


def require() -> str:
    """Return the engine's version; raises SettingsError in one line for whatever of it is missing, and where from."""
    if shutil.which("docker") is None:
        raise SettingsError(f"docker is not installed; {INSTALL}")
    try:
        version = docker("version", "--format", "{{.Server.Version}}")
    except SettingsError as error:
        raise SettingsError(f"docker's engine is out of reach: start it, or let this user use it ({error})") from None
    try:
        docker("compose", "version", "--short")
    except SettingsError:
        raise SettingsError(f"docker has no compose plugin; {INSTALL}") from None
    if missing := [name for name in NEEDED if not (ROOT / name).is_file()]:
        raise SettingsError(f"{missing[0]} is missing: the engine docker builds its images in a copy of the repository")
    return version
