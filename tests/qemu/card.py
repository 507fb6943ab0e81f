"""A card, or its image: what is on its boot partition, read and written without root, and what is on its root."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from qemu.image import BOOT_MIB, MIB

BOOT = "@@1M"
ROOT = (1 + BOOT_MIB) * MIB
SERIAL = "ttyAMA0"  # what QEMU's board calls the Raspberry Pi's serial0
FIRST = ("init=", "systemd.run=")  # what a command line has while a first boot is still to come, or under way


class Unreadable(Exception):
    """A partition that says no, in one line."""


def cmdline(card: Path) -> str:
    """Return the kernel's command line as it is on the card."""
    return read(card, "cmdline.txt").decode()


def adapted(line: str) -> str:
    """Return what QEMU's board needs for the same: its own serial line and disk, and the journal on the console."""
    words = [f"root=/dev/vda{word[-1]}" if word.startswith("root=") else word for word in line.split()]
    words = [word.replace("serial0,115200", SERIAL) for word in words if word != "console=tty1"]
    return " ".join([*words, "net.ifnames=0", "systemd.journald.forward_to_console=1"])


def is_first(line: str) -> bool:
    """Whether the board that has this command line restarts by itself, once it has done what that says."""
    return any(word.startswith(FIRST) for word in line.split())


def read(card: Path, name: str) -> bytes:
    """Return a file of the boot partition; raises Unreadable."""
    return _said(["mtype", "-i", f"{card}{BOOT}", f"::{name}"])


def names(card: Path) -> list[str]:
    """Return the paths of all files on the boot partition; raises Unreadable."""
    listed = _said(["mdir", "-/", "-b", "-i", f"{card}{BOOT}", "::"]).decode()
    return sorted(line.removeprefix("::/") for line in listed.splitlines() if not line.endswith("/"))


def put(card: Path, file: Path, name: str) -> None:
    """Copy a file onto the boot partition, into folders that are made for it; raises Unreadable."""
    for folder in reversed(Path(name).parents[:-1]):
        subprocess.run(["mmd", "-i", f"{card}{BOOT}", "-D", "s", f"::{folder}"], capture_output=True, check=False)
    _said(["mcopy", "-o", "-i", f"{card}{BOOT}", str(file), f"::{name}"])


def secrets(card: Path) -> list[str]:
    """Return the paths of all files on the boot partition that hold a private key; raises Unreadable."""
    return [name for name in names(card) if b"PRIVATE KEY" in read(card, name)]


def raw_secrets(card: Path) -> int:
    """How many private keys are to be found on the boot partition by one who reads it block by block."""
    found, before = 0, b""
    with card.open("rb") as disk:
        disk.seek(MIB)
        for _ in range(BOOT_MIB):
            piece = before[-16:] + disk.read(MIB)
            found += piece.count(b"PRIVATE KEY-----") - before[-16:].count(b"PRIVATE KEY-----")
            before = piece
    return found


def of_root(card: Path, path: str) -> str:
    """Return a file of the root partition, of a card that was taken out properly; raises Unreadable."""
    return _said(["debugfs", "-R", f"cat {path}", f"{card}?offset={ROOT}"]).decode()


def copy(image: Path, card: Path) -> None:
    """Copy an image, holes and all."""
    _said([shutil.which("cp") or "cp", "--sparse=always", str(image), str(card)])


def _said(command: list[str]) -> bytes:
    ended = subprocess.run(command, capture_output=True, check=False)
    if ended.returncode or (not ended.stdout and b"not found" in ended.stderr):
        raise Unreadable(f"{' '.join(command[:1])}: {ended.stderr.decode(errors='replace').strip()[-200:]}")
    return ended.stdout
