"""Disks that must not be written to, by what a kernel says of them in files of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from sysfs import put

from fedfleet.cloud.flash import disks
from fedfleet.wire.errors import SettingsError

MOUNTS = "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 - ext4 /dev/root rw\n22 27 0:21 / /proc rw - proc proc rw\n"


def disk(root: Path, name: str, number: int, size: float = 32e9, parts: int = 2, **files: str) -> Path:
    """A disk with partitions as the kernel shows it; `files` are others of its own."""
    base = f"sys/devices/{name}"
    for file, text in {"dev": f"8:{number}", "size": f"{size / 512:.0f}", "ro": "0", **files}.items():
        put(root, f"{base}/{file}", f"{text}\n")
    for part in range(1, parts + 1):
        put(root, f"{base}/{name}{part}/dev", f"8:{number + part}\n")
        put(root, f"{base}/{name}{part}/partition", f"{part}\n")
        put(root, f"{base}/{name}{part}/size", "1000\n")
        link(root, f"{name}{part}", f"{base}/{name}{part}")
    link(root, name, base)
    return root / base


def link(root: Path, name: str, to: str) -> None:
    (root / "sys/class/block").mkdir(parents=True, exist_ok=True)
    (root / "sys/class/block" / name).symlink_to(root / to)


def mount(root: Path, number: str, at: str, source: str = "/dev/none") -> None:
    put(root, "proc/self/mountinfo", f"{MOUNTS}40 35 {number} / {at} rw - vfat {source} rw\n")


def refused(root: Path, name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        disks.describe(name, root)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"/dev/{name}: ")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sdc3\tpartition\t8\t0\t-2\n")
    put(tmp_path, "proc/self/mountinfo", MOUNTS)
    put(disk(tmp_path, "sdb", 16), "device/model", "SD Card Reader  \n")
    return tmp_path


def test_a_card_in_a_reader(root: Path) -> None:
    found = disks.describe("sdb", root)
    assert found == disks.Disk(Path("/dev/sdb"), 32_000_000_000, "SD Card Reader")
    assert found.title == "/dev/sdb, SD Card Reader, 32.0 GB"


def test_the_slot_of_a_laptop_names_its_card(root: Path) -> None:
    put(disk(root, "mmcblk0", 96), "device/name", "SU32G\n")
    assert disks.describe("mmcblk0", root).model == "SU32G"
    disk(root, "loop0", 112)
    assert disks.describe("loop0", root).model == "unknown model"


def test_a_partition_is_no_card(root: Path) -> None:
    refused(root, "sdb1", "a partition; name the whole disk, /dev/sdb")


@pytest.mark.parametrize(("number", "source"), [("8:16", "none"), ("8:18", "none"), ("0:44", "/dev/sdb2")])
def test_what_is_mounted_is_not_written(root: Path, number: str, source: str) -> None:
    mount(root, number, r"/media/my\040card", source)
    refused(root, "sdb", "mounted at /media/my card; unmount it first")


@pytest.mark.parametrize("at", ["/", "/boot/firmware", "/home"])
def test_the_computer_s_own_system_is_not_written(root: Path, at: str) -> None:
    mount(root, "8:17", at)
    refused(root, "sdb", rf"holds the system of this computer \({at}\)")


def test_a_system_on_encrypted_lvm_is_found_through_all_that_lies_between(root: Path) -> None:
    for name, below, number in (("dm-0", "devices/sdb/sdb2", "253:0"), ("dm-1", "devices/dm-0", "253:1")):
        put(root, f"sys/devices/{name}/dev", f"{number}\n")
        link(root, name, f"sys/devices/{name}")
        put(root, f"sys/{below}/holders/{name}", "")
    refused(root, "sdb", "in use by dm-0")
    mount(root, "253:1", "/")
    refused(root, "sdb", "holds the system of this computer")


def test_swap_is_not_written(root: Path) -> None:
    disk(root, "sdc", 32, parts=3)
    refused(root, "sdc", "swaps to it")


@pytest.mark.parametrize(
    ("size", "files", "words"),
    [
        (0, {}, "no card in it"),
        (3e12, {}, "3.0 TB, which is no card"),
        (32e9, {"ro": "1"}, "write-protected"),
    ],
)
def test_disks_that_are_no_cards(root: Path, size: float, files: dict[str, str], words: str) -> None:
    disk(root, "sdd", 48, size, 0, **files)
    refused(root, "sdd", words)


def test_a_card_that_is_too_small(root: Path) -> None:
    found = disks.describe("sdb", root)
    disks.require_room(found, found.size)
    with pytest.raises(SettingsError, match=r"SD Card Reader, 32.0 GB: too small, the image has 32.0 GB"):
        disks.require_room(found, found.size + 1)


def test_what_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for path, words in (
        (tmp_path / "file", "not a block device"),
        (tmp_path / "link", "not a block device"),
        (Path("/dev/null"), "not a block device"),
        (tmp_path, "not a block device"),
        (tmp_path / "dangling", "No such file"),
    ):
        with pytest.raises(SettingsError, match=words):
            disks.look(path)
