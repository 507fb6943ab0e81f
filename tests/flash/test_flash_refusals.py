"""Bad input to `fedfleet flash`: one line with the remedy, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cards
import commands
import processes
import pytest
from cards import MIB, Images

pytestmark = cards.needs_tools
COMMON = ("--bundle", "bundle", "--settings", "pump-1.toml", "--claim", "claim.pem")


def refused(*options: object, words: str, common: tuple[str, ...] = COMMON) -> str:
    """Refused with one line, and no file is left that was not there."""
    before = snapshot(Path())
    shown = commands.run("flash", *common, *map(str, options))
    assert shown.startswith("refused: "), shown
    assert "\n" not in shown
    assert re.search(words, shown), shown
    assert snapshot(Path()) == before
    return shown


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def damaged(source: Path, target: Path, change: Callable[[bytearray], object]) -> Path:
    data = bytearray(source.read_bytes())
    change(data)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--image", "x"),
        ("--out", "x"),
        ("--boot", "x", "--out", "y"),
        ("--boot", "x", "--image", "y", "--out", "z"),
        ("--boot", "x", "--write", "y"),
    ],
)
def test_a_card_has_one_way_to_be_made(here: Path, options: tuple[str, ...]) -> None:
    refused(*options, words="say what to make: --image FILE with --out FILE or --write DEVICE, or --boot .*, or --ssh")


def test_what_is_no_image(here: Path, images: Images) -> None:
    (here / "noise").write_bytes(os.urandom(4096))
    refused(
        "--image", "noise", "--out", "card.img", words="noise: no partition table; take an image of Raspberry Pi OS"
    )
    (here / "empty").write_bytes(b"")
    refused("--image", "empty", "--out", "card.img", words="empty: no partition table")
    refused("--image", "nothing", "--out", "card.img", words="nothing: cannot be read: No such file")
    refused("--boot", "nothing", words="nothing: cannot be opened: No such file")
    with zipfile.ZipFile(here / "os.zip", "w") as file:
        file.writestr("os.img", b"x")
    refused("--image", "os.zip", "--out", "card.img", words="packed in another way than xz; unpack it first with unzip")


def test_a_gpt_table(here: Path) -> None:
    disk = here / "disk"
    with disk.open("wb") as file:
        file.truncate(50 * MIB)
    cards.run("sfdisk", "-q", disk, given=b"label: gpt\nstart=2048, size=81920, type=U\n")
    refused("--image", disk, "--out", "card.img", words="a GPT partition table, which no Raspberry Pi OS has")


def test_no_fat_partition(here: Path, images: Images) -> None:
    def relabel(data: bytearray) -> None:
        data[446 + 4] = 0x83

    disk = damaged(images(), here / "disk", relabel)
    refused("--image", disk, "--out", "card.img", words="no FAT partition to boot from")


def test_a_fat_partition_without_fat(here: Path, images: Images) -> None:
    def wipe(data: bytearray) -> None:
        data[MIB : MIB + 4096] = bytes(4096)

    refused("--image", damaged(images(), here / "disk", wipe), "--out", "card.img", words="holds no FAT file system")


@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_an_image_that_is_cut_off(here: Path, images: Images, kept: float) -> None:
    data = images().read_bytes()
    (here / "cut.img").write_bytes(data[: int(len(data) * kept) // 512 * 512])
    refused(
        "--image", "cut.img", "--out", "card.img", words=r"cut.img: cut off, a partition ends at .*; download it again"
    )


def test_an_archive_that_is_cut_off_or_damaged(here: Path, images: Images) -> None:
    whole = cards.run("xz", "-0", "-c", images())
    (here / "cut.xz").write_bytes(whole[: len(whole) // 2])
    refused("--image", "cut.xz", "--out", "card.img", words="cut.xz: cut off, its end is missing; download it again")
    middle = len(whole) // 2
    (here / "bad.xz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF] * 64) + whole[middle + 64 :])
    refused("--image", "bad.xz", "--out", "card.img", words="bad.xz: damaged, it does not unpack; download it again")


def test_other_systems(here: Path) -> None:
    boot, root = cards.boot_files("bookworm", 64), cards.root_files("bookworm", 64)
    ubuntu = {"usr/lib/os-release": b'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\n'}
    intel = {"usr/bin/dpkg": b"\x7fELF\x02" + bytes(13) + b"\x3e\x00"}
    for number, (boots, roots, words) in enumerate(
        (
            ({"EFI/boot.efi": b"x"}, root, "no cmdline.txt and config.txt on its boot partition: this is no Raspberry"),
            (boot, root | ubuntu, "its system calls itself 'Ubuntu 24.04 LTS': this is no Raspberry Pi OS"),
            (boot, root | intel, "its /usr/bin/dpkg is no program for ARM"),
            (
                boot | {"cmdline.txt": b"console=tty1\n"},
                root,
                "this card has started .use --ssh., or this is no Raspberry Pi OS",
            ),
        )
    ):
        disk = cards.assemble(here / f"made{number}", boots, roots)
        refused("--image", disk, "--out", "card.img", words=words)


@pytest.mark.parametrize(
    ("of_bundle", "of_image"),
    [
        (("bookworm", 64), ("bookworm", 32)),
        (("bookworm", 32), ("bookworm", 64)),
        (("bookworm", 64), ("trixie", 64)),
        (("trixie", 64), ("bookworm", 64)),
    ],
)
def test_a_bundle_for_another_board(
    here: Path, images: Images, of_bundle: tuple[str, int], of_image: tuple[str, int]
) -> None:
    """A 32-bit image has a 64-bit kernel and `arm_64bit=1` as well: its programs tell."""
    cards.bundle(here / "bundle", *of_bundle)
    shown = refused(
        "--image", images(*of_image), "--out", "card.img", words="make a bundle for it with `fedfleet bundle`"
    )
    assert f"the bundle is for {cards.MACHINES[of_bundle[1]]} with Python {cards.PYTHONS[of_bundle[0]]}" in shown
    assert f"{cards.MACHINES[of_image[1]]}, Python {cards.PYTHONS[of_image[0]]}; /usr/bin/dpkg is" in shown


@pytest.mark.parametrize("of_bundle", [("trixie", 64), ("trixie", 32), ("bookworm", 32)])
def test_trixie_of_32_bits_has_no_runtime(here: Path, images: Images, of_bundle: tuple[str, int]) -> None:
    cards.bundle(here / "bundle", *of_bundle)
    words = "Trixie, 32 bit, Python 3.13: there is no LiteRT runtime for it.*take the 64-bit image, or 32-bit Raspberry"
    refused("--image", images("trixie", 32), "--out", "card.img", words=words)


def test_in_a_folder_the_kernels_tell_the_bits(here: Path) -> None:
    cards.lay(here / "bootfs", cards.boot_files("bookworm", 32))
    refused("--boot", "bootfs", words="32 bit .armv7l, Python 3.11; kernel.img on its boot partition")


def test_the_image_itself_is_not_written_over(here: Path, images: Images) -> None:
    disk = cards.copy(images(), here / "disk.img")
    refused("--image", disk, "--out", "disk.img", words="this is the image itself, which stays as it is")
    refused("--image", disk, "--out", ".", words="not a file; --out names the image to make")
    refused("--image", disk, "--out", "no/such/card.img", words="No such file or directory; check --image and --out")


def test_no_room_on_the_boot_partition_is_seen_before_anything_is_written(here: Path, images: Images) -> None:
    disk = cards.copy(images(), here / "card.img")
    cards.bundle(here / "bundle", **{"large-1.0-py3-none-any.whl": os.urandom(cards.BOOT * MIB)})
    words = r"[0-9,]+ bytes are free on the boot partition and [0-9,]+ are needed; take a fresh image"
    refused("--boot", disk, words=words)
    refused("--image", images(), "--out", "other.img", words=words)


def test_a_disk_that_is_full_leaves_nothing_half(here: Path, images: Images) -> None:
    """The limit is the process's own, so the command runs in one."""
    (here / "card.img").write_bytes(b"what was there")
    (here / "disk.xz").write_bytes(cards.run("xz", "-0", "-c", images()))
    before = snapshot(here)
    done = subprocess.run(
        [sys.executable, "-m", "fedfleet.cli.main", "flash", *COMMON, "--image", "disk.xz", "--out", "card.img"],
        capture_output=True,
        text=True,
        env=processes.environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)),
        check=False,
    )
    assert done.returncode == 2
    assert re.search(r"fedfleet: .*disk.xz cannot be copied: File too large; free the disk", done.stderr)
    assert "Traceback" not in done.stderr
    assert snapshot(here) == before


def test_ctrl_c_leaves_nothing_half(here: Path) -> None:
    """It comes while an archive of 6 GiB of zeros is unpacked, into holes."""
    (here / "disk.xz").write_bytes(lzma.compress(bytes(64 * MIB), preset=0) * 100)
    before = snapshot(here)
    command = [sys.executable, "-m", "fedfleet.cli.main", "flash", *COMMON, "--image", "disk.xz", "--out", "card.img"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=processes.environment()) as running:
        assert processes.until(lambda: any(here.glob(".card.img.*.tmp")))
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=30)
    assert (running.returncode, "interrupted" in error) == (130, True)
    assert snapshot(here) == before


def test_claims(here: Path, images: Images) -> None:
    cards.claim(here / "old.pem", days=-1)
    cards.claim(here / "other.pem", fleet="fans")
    cards.claim(here / "bound.pem", device="pump-2")
    cards.claim(here / "stranger.pem", stranger=True)
    whole = (here / "claim.pem").read_text()
    (here / "cut.pem").write_text(whole[: len(whole) // 2])
    (here / "text.pem").write_text("hello\n")
    (here / "forged.pem").write_text(
        whole.replace(
            whole.split("-----BEGIN CERTIFICATE")[1], (here / "old.pem").read_text().split("-----BEGIN CERTIFICATE")[1]
        )
    )
    for name, words in {
        "old.pem": r"old.pem: this claim expired on \d{4}-\d\d-\d\d; make one with `fedfleet enrol claim`",
        "other.pem": "the claim is for the fleet fans, the settings for pumps; make a claim for it",
        "bound.pem": "the claim is for the device pump-2, the settings for pump-1",
        "stranger.pem": "damaged: its key is not that of its certificate",
        "cut.pem": "cut.pem: damaged: it lacks its certificate, its key or its authority",
        "forged.pem": "forged.pem: damaged: it lacks its certificate, its key or its authority",
        "text.pem": "text.pem: not a claim file",
        "none.pem": "none.pem: cannot be read: No such file",
    }.items():
        common = (*COMMON[:4], "--claim", name)
        refused("--image", images(), "--out", "card.img", words=words, common=common)


def test_a_claim_that_is_bound_to_the_device(here: Path) -> None:
    cards.claim(here / "claim.pem", device="pump-1")
    cards.lay(here / "bootfs", cards.boot_files("bookworm", 64))
    assert "until 20" in commands.run("flash", *COMMON, "--boot", "bootfs")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('device = "pump-1"\n', "fleet is missing"),
        ("colour = 1\n" + cards.SETTINGS, "unknown setting colour"),
        (cards.SETTINGS + "[guards]\nmax_load = -1\n", "guards: a limit must not be negative"),
        ("device = \n", "not TOML"),
    ],
)
def test_settings_that_the_agent_would_refuse(here: Path, text: str, words: str) -> None:
    (here / "pump-1.toml").write_text(text)
    refused("--boot", "x", words=f"pump-1.toml: .*{words}")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "/var/lib/fedfleet/state",
            "state",
            'the service may only write below .*; set state = "/var/lib/fedfleet/state"',
        ),
        ("/var/lib/fedfleet/claim.pem", "claim.pem", 'set claim = "/var/lib/fedfleet/claim.pem" in .enrol.'),
        ("[enrol]\nclaim =", "[enrol]\n# claim =", 'set claim = "/var/lib/fedfleet/claim.pem" in .enrol.'),
    ],
)
def test_settings_that_the_installation_would_refuse(here: Path, old: str, new: str, words: str) -> None:
    """On the board, where nobody looks on; the words are those of install.sh's own rules."""
    (here / "pump-1.toml").write_text(cards.SETTINGS.replace(old, new))
    refused("--boot", "x", words=words)


def test_settings_that_want_a_claim(here: Path) -> None:
    refused("--boot", "x", words="the settings want a claim; give it with --claim", common=COMMON[:4])


def test_settings_are_read_by_the_agent_of_the_bundle(here: Path) -> None:
    """An agent of another version may take other settings; here one that has a word of its own for `device`."""
    with zipfile.ZipFile(here / "agent.whl", "w") as wheel:
        wheel.writestr("fedfleet/wire/__init__.py", "")
        wheel.writestr("fedfleet/wire/errors.py", "class FedfleetError(Exception): pass\n")
        wheel.writestr("fedfleet/edge/__init__.py", "")
        wheel.writestr(
            "fedfleet/edge/settings.py",
            "from fedfleet.wire.errors import FedfleetError\n"
            "def load_agent(path):\n    raise FedfleetError(f'{path}: device is called board now')\n",
        )
    name = "fedfleet_agent-9.9-py3-none-any.whl"
    cards.bundle(here / "bundle", **{name: (here / "agent.whl").read_bytes()})
    refused("--boot", "x", words="pump-1.toml: device is called board now")
    cards.bundle(here / "bundle", **{name: b"no wheel"})
    refused("--boot", "x", words=f"{name}: not a wheel; make the bundle again")


@pytest.mark.parametrize(
    ("release", "name", "text"),
    [
        ("bookworm", "firstrun.sh", "#!/bin/sh\nset_wlan mine\n"),
        ("trixie", "user-data", "#cloud-config\nhostname: mine\n"),
        ("trixie", "user-data", "#cloud-config\nhostname:\tmine\n"),
        ("trixie", "network-config", "network:\n  wifis:\n    wlan0: {}\n"),
    ],
)
def test_what_another_program_has_set_is_not_lost_without_a_word(
    here: Path, release: str, name: str, text: str
) -> None:
    cards.bundle(here / "bundle", release)
    cards.lay(here / "bootfs", cards.boot_files(release, 64) | {name: text.encode()})
    refused("--boot", "bootfs", words=f"bootfs: {name} holds settings of another program, which would be lost")


def test_bundles(here: Path) -> None:
    told = json.loads((here / "bundle/release.json").read_text())
    (here / "bundle/wheels/thing-1.0-one-none-any.whl").write_bytes(b"other")
    refused(
        "--boot", "x", words="thing-1.0-one-none-any.whl: not the file that release.json names; make the bundle again"
    )
    (here / "bundle/wheels/thing-1.0-one-none-any.whl").unlink()
    refused("--boot", "x", words="thing-1.0-one-none-any.whl: cannot be read: No such file.*; make the bundle again")
    told["wheels"][0]["name"] = "../../etc/passwd"
    (here / "bundle/release.json").write_text(json.dumps(told))
    refused("--boot", "x", words="'../../etc/passwd' is no name of a wheel")
    (here / "bundle/release.json").write_text("{")
    refused("--boot", "x", words="release.json: .*; make the bundle again")
    (here / "bundle/release.json").unlink()
    refused("--boot", "x", words="no release.json in it, so it is no bundle")


def test_the_help_shows_how(here: Path) -> None:
    shown = commands.run("flash", "--help")
    for words in (
        "fedfleet flash --image raspios.img.xz --out",
        "--write /dev/sdX",
        "exit codes",
        "--wifi-password-env",
    ):
        assert words in shown
