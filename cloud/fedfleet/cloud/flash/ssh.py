"""A board that runs already: looked at, given the bundle that fits it, and installed, over OpenSSH's own client.

All that its owner has set up for `ssh HOST` holds here as well: keys, jump hosts, names in ~/.ssh/config. One
connection serves all steps (ControlMaster), so a password is asked for once.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cloud.bundle.boards import BOARDS, Board, board
from fedfleet.cloud.bundle.make import make
from fedfleet.cloud.flash import bundle as bundles
from fedfleet.cloud.flash.bundle import Loaded
from fedfleet.cloud.flash.image import Progress
from fedfleet.wire.errors import SettingsError

LOST = 255  # how ssh ends where it is ssh itself that failed
MACHINES = {"arm64": "aarch64", "armhf": "armv7l", "amd64": "x86_64"}  # by Debian's name for them
ROOM = 200 * 2**10  # KiB for the bundle, its slot and one more of it
OPTIONS = ("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ControlMaster=auto")
LOOK = r"""
[ ! -r /etc/os-release ] || . /etc/os-release
python=$(readlink /usr/bin/python3)
place=/var/lib/fedfleet; [ -d $place ] || place=/var/lib; [ -z "$ROOT" ] || place=$ROOT
echo "system=${PRETTY_NAME:-an unknown system}"
echo "codename=${VERSION_CODENAME:-}"
echo "arch=$(dpkg --print-architecture 2>/dev/null || echo unknown)"
echo "kernel=$(uname -m)"
echo "python=${python#python}"
echo "free=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')"
echo "user=$(id -u)"
echo "sudo=$(sudo -n true 2>/dev/null && echo yes || echo no)"
"""
INSTALL = r"""
set -e
umask 077
folder=$(mktemp -d "${TMPDIR:-/tmp}/fedfleet.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
tar -xf - -C "$folder"
"""


@dataclass(frozen=True)
class Found:
    """What a board says of itself. `free` in KiB; `rooted`: whether the user there is root, or may be it unasked."""

    system: str
    codename: str
    machine: str
    kernel: str
    python: str
    free: int
    user: int
    rooted: bool

    def board(self) -> Board:
        """The board of BOARDS that this is. Raises SettingsError with the remedy where there is none."""
        if self.kernel == "armv6l":
            raise SettingsError(
                f"{self.system} on an ARMv6 processor: it has no LiteRT runtime; take a Pi 2, Zero 2 W or newer"
            )
        if (self.machine, self.python) == ("armv7l", "3.13"):
            return board("trixie32")
        for one in BOARDS.values():
            if (one.machine, one.python) == (self.machine, self.python):
                return one
        raise SettingsError(
            f"{self.system} with Python {self.python or '(none)'} on {self.machine}: fedfleet knows {', '.join(BOARDS)}"
        )


@dataclass(frozen=True)
class Report:
    """What was found and done: `said` is install.sh's last line; `fresh`: whether anything is other than before."""

    host: str
    found: Found
    version: str
    said: str
    fresh: bool


class Link:
    """One connection to a board."""

    def __init__(self, host: str, options: Sequence[str]) -> None:
        self.host = host
        self._command = ["ssh", *options, host]

    def run(self, script: str, files: Mapping[str, bytes] | None = None, tick: Progress | None = None) -> str:
        """Run a shell script there, with `files` as a tar on its stdin; return what it prints. Raises SettingsError."""
        command = [*self._command, f"sh -c {shlex.quote(script)}"]
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as wrong:
            try:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=wrong)
            except OSError as error:
                raise SettingsError(f"ssh cannot be started: {error.strerror}: install OpenSSH's client") from None
            with process:
                self._send(process, files or {}, tick)
            said.seek(0)
            wrong.seek(0)
            self._judge(process.returncode, wrong.read().decode(errors="replace"))
            return said.read().decode(errors="replace")

    def _send(self, process: subprocess.Popen[bytes], files: Mapping[str, bytes], tick: Progress | None) -> None:
        assert process.stdin is not None
        done, total = 0, sum(map(len, files.values()))
        try:
            if files:
                with tarfile.open(fileobj=process.stdin, mode="w|") as archive:
                    for name, data in files.items():
                        member = tarfile.TarInfo(name)
                        member.size, member.mode = len(data), 0o600
                        archive.addfile(member, io.BytesIO(data))
                        done += len(data)
                        if tick is not None:
                            tick("copying", done, total)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended early, and says why itself

    def _judge(self, code: int, wrong: str) -> None:
        if code == 0:
            return
        lines = [line.strip() for line in wrong.splitlines() if line.strip()] or ["no word why"]
        if code == LOST:
            raise SettingsError(f"{self.host}: {lines[-1]}; try `ssh {self.host}` by hand first")
        raise SettingsError(f"{self.host}: {lines[-1].removeprefix('fedfleet: ')}")


def install(
    host: str,
    bundle: Path | None,
    settings: bytes,
    claim: bytes | None = None,
    *,
    tick: Progress | None = None,
    options: Sequence[str] = (),
    root: str = "",
) -> Report:
    """Install the agent on the board that `ssh` reaches as `host`; twice is the same as once.

    Without `bundle` the one that fits is made. `options` go to ssh; `root` is a folder there to install into instead.
    Raises SettingsError with what the board, or ssh, has against it; nothing was changed there then.
    """
    with _linked(host, options) as link:
        found = look(link, root)
        files = dict(_bundle(found, bundle).files) | {"agent.toml": settings}
        if claim is not None:
            files["claim.pem"] = claim
        said = link.run(_script(found, root), files, tick).strip().splitlines()[-1].removeprefix("fedfleet: ")
    return Report(host, found, _version(files), said, not said.endswith("nothing changed"))


def look(link: Link, root: str = "") -> Found:
    """Ask a board what it is, before anything is done to it. Raises SettingsError where it will not do."""
    lines = link.run(f"ROOT={shlex.quote(root)}\n{LOOK}").splitlines()
    told = {name: value for name, _, value in (line.partition("=") for line in lines)}
    try:
        found = Found(
            told["system"],
            told["codename"],
            MACHINES.get(told["arch"], told["arch"]),
            told["kernel"],
            told["python"],
            int(told["free"]),
            int(told["user"]),
            told["user"] == "0" or told["sudo"] == "yes",
        )
    except (KeyError, ValueError):
        raise SettingsError(
            f"{link.host} does not answer as Raspberry Pi OS or Debian does: is its login shell a shell?"
        ) from None
    if not found.rooted and not root:
        raise SettingsError(
            f"{link.host}: its user may not become root unasked: log in as root, or allow sudo without a password"
        )
    if found.free < ROOM:
        raise SettingsError(f"{link.host} has {found.free >> 10} MiB free and {ROOM >> 10} MiB are needed: make room")
    return found


def _bundle(found: Found, folder: Path | None) -> Loaded:
    """The bundle in `folder`, if it fits; without one, that which does, made now."""
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            make(found.board(), Path(name) / "bundle")
            return bundles.load(Path(name) / "bundle")
    bundle = bundles.load(folder)
    made_for = (bundle.release.machine, bundle.release.python)
    if made_for != (found.machine, found.python):
        fitting = found.board().name
        raise SettingsError(
            f"the bundle is for {made_for[0]} with Python {made_for[1]}, the board is {found.system} "
            f"({found.machine}, Python {found.python}): fedfleet bundle --board {fitting}"
        )
    return bundle


def _script(found: Found, root: str) -> str:
    sudo = "" if found.user == 0 or root else "sudo -n "
    into = f" --root {shlex.quote(root)}" if root else ""
    return f'{INSTALL}{sudo}sh "$folder/install.sh"{into}\n'


def _version(files: Mapping[str, bytes]) -> str:
    (name,) = (name for name in files if name.startswith("wheels/fedfleet_agent-"))
    return name.split("-")[1]


@contextmanager
def _linked(host: str, options: Sequence[str]) -> Iterator[Link]:
    """A connection that ends with the block."""
    if not host or host.startswith("-") or any(letter.isspace() for letter in host):
        raise SettingsError(f"--ssh {host!r}: name a host as ssh does, such as pi@pump-1.local or ssh://pi@pump-1:2222")
    with tempfile.TemporaryDirectory(prefix="ff") as folder:
        shared = [*options, *OPTIONS, "-o", f"ControlPath={folder}/%C", "-o", "ControlPersist=60"]
        try:
            yield Link(host, shared)
        finally:
            subprocess.run(["ssh", *shared, "-O", "exit", host], capture_output=True, check=False)
