"""Which Raspberry Pi OS an image holds: release, bits and Python, read from its content and not its name.

The kernel says nothing of the system above it: 32-bit Raspberry Pi OS starts a 64-bit kernel where the board has one.
So the system's own files are asked where they can be read: debugfs reads ext4 without a mount. In a boot folder there
are none, and its kernels must do: an image of 64 bits has none for boards of 32.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, replace

from fedfleet.cloud.flash.boot import Boot
from fedfleet.cloud.flash.partitions import Extent
from fedfleet.wire.errors import SettingsError

FIRSTBOOT = "init=/usr/lib/raspberrypi-sys-mods/firstboot"
STOCK = {"cmdline.txt", "config.txt"}
SEED = {"user-data", "meta-data"}
PROGRAM = "/usr/bin/dpkg"  # which every Debian has, as a file of its own
MACHINES = {(1, 40): "armv7l", (2, 183): "aarch64"}  # ELF class and machine
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
IDS = ("debian", "raspbian")
NOT_OURS = "this is no Raspberry Pi OS; take an image of Raspberry Pi OS Bookworm or Trixie"


@dataclass(frozen=True)
class System:
    """An operating system. `style`: who reads the settings, `firstrun` or `cloud-init`; `how`: what told the bits."""

    style: str
    release: str
    machine: str
    python: str
    how: str

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"Raspberry Pi OS {self.release.title()}, {32 if self.machine == 'armv7l' else 64} bit"


def inspect(boot: Boot, name: str, file: int = -1, root: Extent | None = None) -> System:
    """Return what the boot partition and, where it can be read, the system on `root` say. Raises SettingsError."""
    names = boot.names()
    if not names >= STOCK:
        raise SettingsError(f"{name}: no {' and '.join(sorted(STOCK - names))} on its boot partition: {NOT_OURS}")
    found = _by_boot(names, boot.read("cmdline.txt") or b"", name)
    if root is None:
        return found
    if _program() is None:
        return replace(found, how=f"{found.how}; debugfs, which would look into the system, is not installed")
    told = dict(
        re.findall(r'(?m)^(\w+)="?([^"\n]*)', _cat(file, root, "/usr/lib/os-release").decode("utf-8", "replace"))
    )
    if told.get("ID") not in IDS:
        raise SettingsError(
            f"{name}: its system calls itself {told.get('PRETTY_NAME', 'nothing at all')!r}: {NOT_OURS}"
        )
    return _by_root(replace(found, release=told.get("VERSION_CODENAME", found.release)), file, root, name)


def _by_boot(names: frozenset[str], cmdline: bytes, name: str) -> System:
    """What the boot partition alone says."""
    if names >= SEED:
        style, release = "cloud-init", "trixie"
    elif FIRSTBOOT.encode() in cmdline.split():
        style, release = "firstrun", "bookworm"
    else:
        raise SettingsError(
            f"{name}: neither cloud-init's files nor an init=.../firstboot in cmdline.txt: this card has started (use "
            f"--ssh), or {NOT_OURS}"
        )
    old = sorted(kernel for kernel in ("kernel.img", "kernel7.img", "kernel7l.img") if kernel in names)
    machine, how = (
        ("armv7l", f"{old[0]} on its boot partition") if old else ("aarch64", "kernel8.img alone, no older kernel")
    )
    return System(style, release, machine, PYTHONS[release], how)


def _by_root(found: System, file: int, root: Extent, name: str) -> System:
    """What the system itself says, over what the boot partition let one think."""
    elf = _cat(file, root, PROGRAM)[:20]
    machine = (
        MACHINES.get((elf[4], int.from_bytes(elf[18:20], "little")))
        if elf[:4] == b"\x7fELF" and len(elf) == 20
        else None
    )
    if machine is None:
        raise SettingsError(f"{name}: its {PROGRAM} is no program for ARM: {NOT_OURS}")
    listed = _debugfs(file, root, "ls -p /usr/bin").decode("utf-8", "replace")
    pythons = sorted(re.findall(r"/python(3\.\d+)/", listed), key=lambda text: int(text[2:]))
    python = pythons[-1] if pythons else PYTHONS.get(found.release, found.python)
    return replace(found, machine=machine, python=python, how=f"{PROGRAM} is a program of {32 * elf[4]} bits")


def _program() -> str | None:
    """Where debugfs is; users who are not root do not have its folder in their PATH."""
    return shutil.which("debugfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _cat(file: int, root: Extent, path: str) -> bytes:
    return _debugfs(file, root, f"cat {shlex.quote(path)}")


def _debugfs(file: int, root: Extent, request: str) -> bytes:
    """What debugfs prints; nothing where it cannot."""
    command = [_program() or "debugfs", "-R", request, f"/proc/self/fd/{file}?offset={root.start}"]
    environment = {**os.environ, "DEBUGFS_PAGER": "cat", "PAGER": "cat", "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, pass_fds=(file,), env=environment, check=False).stdout
