"""A card's boot partition, read and written as the proof does it, on a small one of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from qemu import blank, card
from qemu.blank import needs_mtools, put
from qemu.image import MIB, RELEASES

KEY = b"-----BEGIN PRIVATE KEY-----\nMHcCAQEE\n-----END PRIVATE KEY-----\n"


def test_a_released_command_line_becomes_one_that_qemu_can_start() -> None:
    line = RELEASES["bookworm"].cmdline.format(disk="4e639091")
    assert card.adapted(line) == (
        "console=ttyAMA0 root=/dev/vda2 rootfstype=ext4 fsck.repair=yes rootwait quiet "
        "init=/usr/lib/raspberrypi-sys-mods/firstboot net.ifnames=0 systemd.journald.forward_to_console=1"
    )


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("init=/usr/lib/raspberrypi-sys-mods/firstboot", True),
        ("systemd.run=/boot/firmware/firstrun.sh systemd.run_success_action=reboot", True),
        ("rootwait quiet", False),
        ("ds=nocloud;i=fedfleet-0123", False),
    ],
)
def test_a_board_restarts_by_itself_while_its_command_line_says_so(words: str, first: bool) -> None:
    assert card.is_first(f"root=/dev/vda2 {words} rootwait\n") is first


@needs_mtools
def test_files_are_put_into_folders_and_read_back(tmp_path: Path) -> None:
    disk = blank.disk(tmp_path)
    put(disk, "cmdline.txt", b"root=/dev/vda2\n")
    put(disk, "fedfleet/inbox/one.npz", b"one")
    put(disk, "fedfleet/inbox/two.npz", b"two")
    put(disk, "cmdline.txt", b"root=/dev/vda2 quiet\n")
    assert card.names(disk) == ["cmdline.txt", "fedfleet/inbox/one.npz", "fedfleet/inbox/two.npz"]
    assert card.cmdline(disk) == "root=/dev/vda2 quiet\n"
    assert card.read(disk, "fedfleet/inbox/two.npz") == b"two"
    with pytest.raises(card.Unreadable, match="^mtype: .*three"):
        card.read(disk, "fedfleet/three")


@needs_mtools
def test_a_key_that_was_only_removed_is_still_found(tmp_path: Path) -> None:
    disk = blank.disk(tmp_path)
    put(disk, "fedfleet/claim.pem", KEY)
    put(disk, "fedfleet/ca.pem", b"-----BEGIN CERTIFICATE-----\n")
    assert (card.secrets(disk), card.raw_secrets(disk)) == (["fedfleet/claim.pem"], 2)
    subprocess.run(["mdel", "-i", f"{disk}{card.BOOT}", "::fedfleet/claim.pem"], check=True)
    assert (card.secrets(disk), card.raw_secrets(disk)) == ([], 2)


@pytest.mark.parametrize("at", [0, MIB - 5, MIB - 20, 3 * MIB - 1])
def test_a_key_is_counted_once_wherever_it_lies(tmp_path: Path, at: int) -> None:
    disk = tmp_path / "card.img"
    disk.write_bytes(bytes(MIB + at) + KEY.splitlines()[0] + bytes(MIB))
    assert card.raw_secrets(disk) == 1


@needs_mtools
def test_a_copy_is_the_same_card(tmp_path: Path) -> None:
    disk = blank.disk(tmp_path)
    put(disk, "config.txt", b"arm_64bit=1\n")
    card.copy(disk, tmp_path / "copy.img")
    assert (tmp_path / "copy.img").read_bytes() == disk.read_bytes()
