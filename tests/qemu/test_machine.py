"""QEMU's board as the proof handles it: a real one, with nothing to run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from processes import alive
from qemu import blank, card
from qemu.blank import needs_mtools, put
from qemu.image import Image
from qemu.machine import Board, Stuck

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="qemu-system-arm is not installed")


def board(disk: Path) -> Board:
    empty = disk.parent / "empty"
    empty.write_bytes(bytes(4096))
    return Board(Image(disk, empty, empty), disk, disk.parent)


@needs_qemu
@needs_mtools
def test_a_board_is_started_by_its_card_and_loses_power_and_network(tmp_path: Path) -> None:
    disk = blank.disk(tmp_path)
    put(disk, "cmdline.txt", b"console=serial0,115200 root=PARTUUID=4e639091-02 rootwait\n")
    with board(disk) as found:
        found.power()
        assert found.said().strip() == f"--- start 1: {card.adapted(card.cmdline(disk))}"
        found.plug(False)
        found.plug(True)
        with pytest.raises(Stuck, match="^QEMU refuses set_link: "):
            found.command("set_link", name="none", up=True)
        assert alive(found.pid)
        found.cut()
        assert not alive(found.pid)
        with pytest.raises(Stuck, match=r"did not say 'login:' in 0.1 s; its last words:\n\n--- start 1"):
            found.says("login:", 0.1)
        found.power()
        second = found.pid
    assert found.starts == 2
    assert not alive(second)


@needs_qemu
@needs_mtools
def test_a_first_boot_that_never_ends_is_told_with_the_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = blank.disk(tmp_path)
    put(disk, "cmdline.txt", b"root=PARTUUID=4e639091-02 init=/usr/lib/raspberrypi-sys-mods/firstboot\n")
    with board(disk) as found, pytest.raises(Stuck, match="did not end in 0.2 s"):
        found.first_boot(0.2)


def test_reports_are_those_since_the_last_start(tmp_path: Path) -> None:
    found = Board(Image(tmp_path, tmp_path, tmp_path), tmp_path, tmp_path)
    found.console.write_text(
        "\n--- start 1: quiet\nreport pid=1 restarts=0\n\n--- start 2: quiet\n"
        "[   19.1] systemd[1]: Started report.service.\nreport pid=7 restarts=1 uid=\nreport pid=8 restarts=2\r\n"
    )
    assert found.reports() == [{"pid": "7", "restarts": "1", "uid": ""}, {"pid": "8", "restarts": "2"}]
