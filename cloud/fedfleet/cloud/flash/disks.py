"""Which disks a card may be written to, by what the kernel says of them: whole, small, and used by nobody."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from fedfleet.wire.errors import SettingsError

SECTOR = 512
LARGEST = 2 * 10**12  # an MBR ends there, and no card is larger
SYSTEM = ("/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home")
ANOTHER = "name the card's own device, such as lsblk shows it"


@dataclass(frozen=True)
class Disk:
    """A whole disk that nobody uses; `size` in bytes."""

    path: Path
    size: int
    model: str

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.path}, {self.model}, {self.size / 1e9:,.1f} GB"


def look(path: Path, root: Path = Path("/")) -> Disk:
    """Return the disk behind `path`, symlinks resolved; raises SettingsError where it must not be written to."""
    try:
        found = path.resolve(strict=True)
        status = found.stat()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; {ANOTHER}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise SettingsError(f"{path}: not a block device; {ANOTHER}, or use --out for a file")
    disk = describe(found.name, root)
    if not os.access(found, os.R_OK | os.W_OK, effective_ids=True):
        raise SettingsError(f"{path}: you may not write it; run this with sudo")
    return disk


def describe(name: str, root: Path = Path("/")) -> Disk:
    """Return what the kernel under `root` says of the block device `name`; raises SettingsError as `look` does."""
    folder, path = (root / "sys/class/block" / name).resolve(), Path("/dev") / name
    if (folder / "partition").exists():
        raise SettingsError(f"{path}: a partition; name the whole disk, /dev/{folder.parent.name}")
    size = int(_text(folder / "size") or 0) * SECTOR
    if size == 0:
        raise SettingsError(f"{path}: no card in it; put one in")
    if _text(folder / "ro") == "1":
        raise SettingsError(f"{path}: write-protected; move the card's switch")
    family = _family(folder, root)
    _require_unused(path, family, root)
    if size > LARGEST:
        raise SettingsError(f"{path}: {size / 1e12:,.1f} TB, which is no card; {ANOTHER}")
    model = _text(folder / "device/model") or _text(folder / "device/name") or "unknown model"
    return Disk(path, size, model)


def require_room(disk: Disk, need: int) -> None:
    """Raise SettingsError where the disk has less than `need` bytes."""
    if disk.size < need:
        raise SettingsError(f"{disk.title}: too small, the image has {need / 1e9:,.1f} GB; take a larger card")


def _require_unused(path: Path, family: set[str], root: Path) -> None:
    mounts = _mounts(family, root)
    if own := sorted(set(mounts) & set(SYSTEM)):
        raise SettingsError(f"{path}: holds the system of this computer ({own[0]}); {ANOTHER}")
    if mounts:
        raise SettingsError(f"{path}: mounted at {mounts[0]}; unmount it first, if this is the card")
    swaps = {Path(line.split()[0]).name for line in _text(root / "proc/swaps").splitlines()[1:] if line.split()}
    if swaps & family:
        raise SettingsError(f"{path}: this computer swaps to it; {ANOTHER}")
    held = sorted(family - {path.name} - {child.name for child in _partitions(root, path.name)})
    if held:
        raise SettingsError(f"{path}: in use by {held[0]} (LVM, RAID or encryption); {ANOTHER}")


def _family(folder: Path, root: Path) -> set[str]:
    """The names of a device, its partitions, and all that is built upon them."""
    found = {folder.name}
    for part in (folder, *_partitions(root, folder.name)):
        found.add(part.name)
        holders = part / "holders"
        for holder in sorted(holders.iterdir()) if holders.is_dir() else ():
            if holder.name not in found:
                found |= _family((root / "sys/class/block" / holder.name).resolve(), root)
    return found


def _partitions(root: Path, name: str) -> list[Path]:
    folder = (root / "sys/class/block" / name).resolve()
    return sorted(file.parent for file in folder.glob("*/partition"))


def _mounts(family: set[str], root: Path) -> list[str]:
    """Where anything of the family is mounted, by its number or by the name that the mount gives."""
    numbers = {_text(root / "sys/class/block" / name / "dev") for name in family}
    found = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(), [*after.split(), "", ""][1]
        if fields[2] in numbers or (source.startswith("/dev/") and Path(source).resolve().name in family):
            found.append(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
    return sorted(found)


def _text(path: Path) -> str:
    """A file of the kernel's without the last line's end; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
