"""Small cards of a test's own: a boot partition, where Raspberry Pi OS has it, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from qemu import card
from qemu.image import MIB

needs_mtools = pytest.mark.skipif(
    not all(map(shutil.which, ("mcopy", "mkfs.vfat"))), reason="mtools or dosfstools are not installed"
)
SIZE = 34  # MiB; FAT32 takes no less


def disk(folder: Path) -> Path:
    """Return a card whose boot partition is empty."""
    part, whole = folder / "part", folder / "card.img"
    with part.open("wb") as file:
        file.truncate(SIZE * MIB)
    subprocess.run(["mkfs.vfat", "-F", "32", str(part)], capture_output=True, check=True)
    whole.write_bytes(bytes(MIB) + part.read_bytes())
    return whole


def put(disk: Path, name: str, content: bytes) -> None:
    """Write a file on the boot partition."""
    file = disk.parent / "file"
    file.write_bytes(content)
    card.put(disk, file, name)
