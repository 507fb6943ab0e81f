"""What the image is made by, without making one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from arm import roots
from processes import environment
from qemu import card, image

from fedfleet.cloud.flash import firstrun
from fedfleet.cloud.flash.owner import Owner

BOOKWORM = image.RELEASES["bookworm"]


def test_without_its_tools_it_says_so_in_one_line_and_builds_nothing(tmp_path: Path) -> None:
    variables = {**environment(), "PATH": str(tmp_path)}
    variables["PYTHONPATH"] += f":{roots.ROOT / 'tests'}"
    command = [sys.executable, "-m", "qemu.prove", str(tmp_path / "kept")]
    ended = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stdout.splitlines()
    assert line.startswith("test-board cannot run: it needs more of Debian 12; as root: apt-get install ")
    assert {"mtools", "qemu-system-arm", "qemu-user-static"} <= set(line.split())
    assert not (tmp_path / "kept").exists()


def test_the_proof_needs_no_more_than_what_runs_a_simulation() -> None:
    variables = environment()
    variables["PYTHONPATH"] += f":{roots.ROOT / 'tests'}"
    code = "import sys, qemu.prove; print(sorted({'pytest', 'hypothesis', 'tensorflow'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.skipif(not all(map(shutil.which, image.TOOLS)), reason="not all tools are installed")
def test_only_building_an_image_needs_root() -> None:
    image.check(built=True, root=False)
    image.check(built=False, root=True)
    with pytest.raises(roots.Missing, match="needs root, once"):
        image.check(built=False, root=False)


def test_another_recipe_is_another_image(tmp_path: Path) -> None:
    one = image.built(BOOKWORM, tmp_path)
    assert one == image.built(BOOKWORM, tmp_path)
    assert one != image.built(replace(BOOKWORM, packages=()), tmp_path)
    assert one.name.startswith("bookworm-")


def test_released_command_lines_are_those_by_which_a_card_is_known() -> None:
    assert "init=/usr/lib/raspberrypi-sys-mods/firstboot" in BOOKWORM.cmdline.split()
    assert card.is_first(BOOKWORM.cmdline)
    assert {"user-data", "meta-data"} <= {name for name, _ in image.RELEASES["trixie"].boot}
    assert not card.is_first(image.RELEASES["trixie"].cmdline)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_stand_ins_are_sound_scripts() -> None:
    scripts = [path for path in image.STANDINS.iterdir() if path.read_text().startswith("#!")]
    assert len(scripts) >= 6
    subprocess.run(["shellcheck", "-s", "sh", *map(str, scripts)], check=True)


def test_what_flash_writes_survives_the_correction_of_the_ram_disk(tmp_path: Path) -> None:
    before = BOOKWORM.cmdline.format(disk="4e639091")
    (tmp_path / "cmdline.txt").write_bytes(firstrun.cmdline(before.encode()))
    (tmp_path / "firstrun.sh").write_bytes(firstrun.script(Owner(hostname="pump-1")))
    subprocess.run(["sh", str(image.STANDINS / "imager_fixup"), str(tmp_path)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cmdline.txt", "firstrun.sh"]
    words = (tmp_path / "cmdline.txt").read_text().split()
    assert {"systemd.run=/boot/firmware/firstrun.sh", "init=/usr/lib/raspberrypi-sys-mods/firstboot"} <= set(words)
    script = (tmp_path / "firstrun.sh").read_text()
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)
    assert "/install.sh" in script
    assert script.splitlines()[-3:] == [
        "rm -f /boot/firmware/firstrun.sh",
        "sed -i 's| systemd\\.[^ ]*||g' /boot/firmware/cmdline.txt",
        "exit 0",
    ]
