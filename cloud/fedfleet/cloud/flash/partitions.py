"""Where the partitions of a Raspberry Pi OS image lie. Its table is an MBR: FAT to boot from, then ext4."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from fedfleet.wire.errors import SettingsError

SECTOR = 512
FAT_TYPES = (0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E)
LINUX, PROTECTIVE = 0x83, 0xEE
ANOTHER = "take an image of Raspberry Pi OS, as it was downloaded"


@dataclass(frozen=True)
class Extent:
    """A partition's first byte and its length in bytes."""

    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The FAT partition, and the Linux one where there is one: a partition's own device has none."""

    boot: Extent
    root: Extent | None = None


def layout(file: int, name: str) -> Layout:
    """Return where the partitions of the open image or device `file` lie; raises SettingsError, which says `name`."""
    first, size = os.pread(file, 2 * SECTOR, 0), os.lseek(file, 0, os.SEEK_END)
    if len(first) < 2 * SECTOR or first[510:512] != b"\x55\xaa":
        raise SettingsError(f"{name}: no partition table; {ANOTHER}")
    if first[54:57] == b"FAT" or first[82:85] == b"FAT":
        return Layout(Extent(0, size))
    entries = [_entry(first, number) for number in range(4)]
    if first[512:520] == b"EFI PART" or entries[0][0] == PROTECTIVE:
        raise SettingsError(f"{name}: a GPT partition table, which no Raspberry Pi OS has; {ANOTHER}")
    fat = next((extent for kind, extent in entries if kind in FAT_TYPES), None)
    if fat is None:
        raise SettingsError(f"{name}: no FAT partition to boot from; {ANOTHER}")
    for kind, extent in entries:
        if kind and extent.start + extent.size > size:
            raise SettingsError(
                f"{name}: cut off, a partition ends at {extent.start + extent.size:,} bytes and there are {size:,}; "
                "download it again"
            )
    return Layout(fat, next((extent for kind, extent in entries if kind == LINUX), None))


def cluster(file: int, boot: Extent, name: str) -> int:
    """Return the bytes that a FAT file system hands out at once; raises SettingsError where it is none."""
    first = os.pread(file, SECTOR, boot.start)
    size = int.from_bytes(first[11:13], "little") * first[13] if first[510:512] == b"\x55\xaa" else 0
    if not 512 <= size <= 2**17 or size & (size - 1):
        raise SettingsError(f"{name}: its boot partition holds no FAT file system; {ANOTHER}")
    return size


def _entry(first: bytes, number: int) -> tuple[int, Extent]:
    """Kind and extent of one of the four entries of an MBR."""
    kind, start, count = struct.unpack_from("<4xB3xII", first, 446 + 16 * number)
    return kind, Extent(start * SECTOR, count * SECTOR)
