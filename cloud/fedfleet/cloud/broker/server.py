"""The mosquitto of this machine: where it is, what it makes of a configuration, how it is told to read it anew."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from fedfleet.wire.errors import SettingsError

SBIN = "/usr/sbin:/usr/local/sbin"  # where Debian puts mosquitto, and users' PATH does not reach
PLUGIN = "mosquitto_acl_file.so"
PLUGINS = ("../lib/*/mosquitto", "../lib/mosquitto", "../lib")  # from where mosquitto's program lies
START = 10.0
GIVEN = set[int]()
RUNNING = re.compile(r"^.*mosquitto version .* running", re.MULTILINE)


def installed() -> str | None:
    """Return the path of the mosquitto that is installed, if any."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:{SBIN}")


def version() -> tuple[int, ...] | None:
    """Return the version of the mosquitto that is installed, if any."""
    path = installed()
    if path is None:
        return None
    said = subprocess.run([path, "-h"], capture_output=True, text=True, check=False)
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", said.stdout + said.stderr)
    return tuple(map(int, found.groups())) if found else None


def syntax() -> str:
    """Return the syntax that the installed mosquitto prefers; 2.0, which 2.1 reads as well, where there is none."""
    return "2.1" if (version() or (2, 0)) >= (2, 1) else "2.0"


def plugin() -> str:
    """Return the path of mosquitto 2.1's plugin for access lists; raises SettingsError where it is not here."""
    path = installed()
    for folder in PLUGINS if path else ():
        found = sorted(Path(path or "").parent.glob(f"{folder}/{PLUGIN}"))
        if found:
            return str(found[0].resolve())
    raise SettingsError(f"{PLUGIN} of mosquitto 2.1 is not on this machine; take --syntax 2.0, which 2.1 reads as well")


def check(folder: Path) -> list[str]:
    """Let the installed mosquitto start on the configuration in `folder`, on other ports, and return what it said.

    Raises SettingsError with its own words where it does not take it. A broker that runs already is not disturbed.
    """
    path = installed()
    if path is None:
        raise SettingsError("mosquitto is not installed: apt install mosquitto")
    settings = folder / "mosquitto.conf"
    if not settings.is_file():
        raise SettingsError(f"{folder} has no mosquitto.conf: fedfleet broker config writes one")
    try:
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            trial = Path(beside)
            trial.chmod(0o755)  # started by root, mosquitto becomes another user
            (trial / "mosquitto.conf").write_text(_elsewhere(settings.read_text()))
            return (_tested(path, trial) if (version() or ()) >= (2, 1) else []) + _started(path, trial)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{settings} cannot be tried: {error}; run this as the owner of {folder}") from None


def reload(folder: Path) -> str:
    """Have the broker of `folder` read access list and revoked certificates anew; returns "" or what to run for it."""
    pid = _running(folder)
    if pid is None:
        return f"no mosquitto runs by {folder / 'data/mosquitto.pid'} on this machine; where it does, send it SIGHUP"
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        return f"mosquitto is another user's; run: sudo kill -HUP {pid}"
    except ProcessLookupError:
        return "mosquitto has just ended; it reads all anew when it starts"
    return ""


def free_port() -> int:
    """Return a port that nobody listens on, another one each time: who asked before may not listen yet."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def _running(folder: Path) -> int | None:
    try:
        pid = int((folder / "data/mosquitto.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and any(Path(os.fsdecode(word)).name == "mosquitto" for word in words) else None


def _tested(path: str, trial: Path) -> list[str]:
    # never on the settings themselves: 2.1.2 then writes an empty database over the one of the broker that runs by them
    command = [path, "--test-config", "-c", str(trial / "mosquitto.conf")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (ended.stdout + ended.stderr).splitlines()
    if ended.returncode:
        raise SettingsError(_words(trial.parent, said))
    return said


def _elsewhere(text: str) -> str:
    """Return the settings with free ports of the loopback, and nothing that a broker which runs already writes."""
    ours = ("pid_file", "persistence", "autosave", "log_dest")
    kept = [line for line in text.splitlines() if not line.startswith(ours)]
    return "\n".join([re.sub(r"^listener \d+", f"listener {free_port()} 127.0.0.1", line) for line in [*kept, ""]])


def _started(path: str, trial: Path) -> list[str]:
    """Start the broker, end it as soon as it runs, and return what it said."""
    log = trial / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [path, "-c", str(trial / "mosquitto.conf")], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            up, deadline = False, time.monotonic() + START
            while not up and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
                up = RUNNING.search(log.read_text(errors="replace")) is not None
        finally:
            process.kill()
            process.wait()
    said = log.read_text(errors="replace").splitlines()
    if not up or any("Error" in line for line in said):
        raise SettingsError(_words(trial.parent, said))
    return said


def _words(folder: Path, said: list[str]) -> str:
    """Return why a configuration is refused, in the broker's words: of what it said, what it calls an error."""
    errors = [line for line in said if "Error" in line or "Unable" in line] or said[-1:] or ["it said nothing"]
    known = os.geteuid() == 0 and any("Unable" in line for line in errors)
    hint = f"; started by root it becomes the user mosquitto, who must own its files: chown -R mosquitto: {folder}"
    return f"mosquitto does not take {folder / 'mosquitto.conf'}: {'; '.join(errors)}{hint if known else ''}"
