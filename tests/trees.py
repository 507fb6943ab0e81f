"""A board's file system as far as install.sh looks at it, and bundles for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fedfleet.cloud.bundle.boards import Board
from fedfleet.cloud.bundle.make import make

VAR = "var/lib/fedfleet"
SETTINGS = f"""
device = "d1"
fleet = "mill"
state = "/{VAR}/state"
[enrol]
claim = "/{VAR}/claim.pem"
"""
CLAIM = "# fedfleet claim\n-----BEGIN CERTIFICATE-----\nsecret\n"
ELF = {"aarch64": (2, 183), "armv7l": (1, 40), "x86_64": (2, 62), "riscv64": (2, 243)}
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def python(root: Path, version: str = "3.11", machine: str = "aarch64") -> None:
    """Put a Python there, as far as its name and the head of its program say."""
    width, number = ELF[machine]
    (root / "usr" / "bin").mkdir(parents=True, exist_ok=True)
    program = root / "usr" / "bin" / f"python{version}"
    program.write_bytes(b"\x7fELF" + bytes([width, 1, 1]) + bytes(11) + number.to_bytes(2, "little"))
    link = program.with_name("python3")
    link.unlink(missing_ok=True)
    link.symlink_to(program.name)


def tree(folder: Path) -> Path:
    """A system with a Python, and nothing of ours."""
    python(folder)
    (folder / "usr" / "bin" / "openssl").touch()
    (folder / "etc").mkdir()
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "etc" / "group").write_text("root:x:0:\n")
    return folder


def bundle(folder: Path, version: str = "1.2", settings: str = SETTINGS) -> Path:
    """A bundle of the agent alone, with settings beside it."""
    (folder.parent / "empty.txt").touch()
    make(Board("own", "3.11", "aarch64", 36, str(folder.parent / "empty.txt")), folder, version=version)
    if settings:
        (folder / "agent.toml").write_text(settings)
    return folder


def numpy(root: Path) -> None:
    """Debian's own numpy, as far as install.sh looks."""
    (root / "usr/lib/python3/dist-packages/numpy").mkdir(parents=True)


def install(folder: Path, *arguments: str | Path, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the install.sh of a bundle by the shell that Debian has."""
    return subprocess.run(
        ["dash", str(folder / "install.sh"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=CLEAN,
        stdin=subprocess.DEVNULL,
        user=user,
        umask=0o077,  # which must not get into what is installed
    )


def picture(root: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """All of a tree: mode, owner, inode and content of each name."""
    found = dict[str, tuple[int, int, int, int, bytes]]()
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""  # noqa: PTH115
        found[str(path.relative_to(root))] = (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_ino, content)
    return found
