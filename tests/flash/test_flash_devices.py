"""`fedfleet flash --write` and `--boot` onto devices that the kernel knows: loop devices, full and mounted ones too."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cards
import commands
import processes
import pytest
from cards import MIB, Images

from fedfleet.cloud.flash import disks, writing
from fedfleet.wire.errors import SettingsError

COMMON = ("--bundle", "bundle", "--settings", "pump-1.toml", "--claim", "claim.pem")
Loops = Callable[[Path], Path]


def lacks() -> str:
    """Why there are no loop devices here; "" where there are."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        return "loop devices need root and losetup"
    return (
        "" if subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode == 0 else "no loop device"
    )


pytestmark = [cards.needs_tools, pytest.mark.skipif(bool(lacks()), reason=lacks())]


@pytest.fixture
def loops() -> Iterator[Loops]:
    """Return a loop device for a file; it is gone after the test."""
    with ExitStack() as stack:

        def attach(file: Path) -> Path:
            device = Path(cards.run("losetup", "--find", "--show", file).decode().strip())
            stack.callback(cards.run, "losetup", "-d", device)
            return device

        yield attach


def sized(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    return path


def mounted(stack: ExitStack, at: Path, *what: object) -> Path:
    """Mount something for as long as the stack lives."""
    at.mkdir()
    cards.run("mount", *what, at)
    stack.callback(cards.run, "umount", at)
    return at


def flash(*options: object) -> str:
    return commands.run("flash", *COMMON, *map(str, options))


def test_a_card_is_what_the_image_would_be(here: Path, images: Images, loops: Loops) -> None:
    flash("--image", images(), "--out", "plain.img")
    card = loops(sized(here / "disk", 64))
    (here / "download").write_bytes(cards.run("xz", "-0", "-c", images()))
    shown = flash("--image", "download", "--write", card, "--yes")
    plain = (here / "plain.img").read_bytes()
    assert (here / "disk").read_bytes()[: len(plain)] == plain
    assert "unknown model, 0.1 GB" in shown
    assert "all read back" in shown
    assert not [path for path in here.iterdir() if path.name.endswith(".tmp")]
    assert "nothing: it was all there" in flash("--image", images(), "--write", card, "--yes", "--out", "kept.img")
    assert (here / "kept.img").read_bytes() == plain


def test_the_boot_partition_of_a_card(here: Path, images: Images, loops: Loops) -> None:
    """As a whole card, and as the partition alone, of which the system is not to be seen."""
    card = loops(cards.copy(images(), here / "disk"))
    assert "usr/bin/dpkg" in flash("--boot", card)
    assert cards.read(here / "disk", "fedfleet/agent.toml") == (here / "pump-1.toml").read_bytes()
    part = here / "part"
    part.write_bytes((here / "disk").read_bytes()[MIB : (1 + cards.BOOT) * MIB])
    assert "nothing: it was all there" in flash("--boot", loops(part))


def test_nobody_is_asked_where_nobody_can_be(here: Path, images: Images, loops: Loops) -> None:
    card = loops(sized(here / "disk", 64))
    assert "say --yes if that is right" in flash("--image", images(), "--write", card)
    assert not any((here / "disk").read_bytes())


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 2), (b"y\n", 0)])
def test_who_sits_at_a_terminal_is_asked(here: Path, images: Images, loops: Loops, answer: bytes, code: int) -> None:
    card = loops(sized(here / "disk", 64))
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    done = subprocess.run(
        [sys.executable, "-m", "fedfleet.cli.main", "flash", *COMMON, "--image", images(), "--write", card],
        stdin=theirs,
        capture_output=True,
        text=True,
        env=processes.environment(),
        check=False,
    )
    for end in (ours, theirs):
        os.close(end)
    assert done.returncode == code, done.stderr
    assert f"{card}, unknown model, 0.1 GB: all that is on it will be lost. Write it?" in done.stdout
    assert any((here / "disk").read_bytes()) == (code == 0)


def test_who_may_not_write_a_card_is_told_before_the_image_is_unpacked(here: Path, loops: Loops) -> None:
    card = loops(sized(here / "disk", 64))
    os.seteuid(65534)
    try:
        with pytest.raises(SettingsError, match=f"{card}: you may not write it; run this with sudo"):
            disks.look(card)
    finally:
        os.seteuid(0)
    assert disks.look(card).size == 64 * MIB


def test_a_card_that_is_too_small(here: Path, images: Images, loops: Loops) -> None:
    card = loops(sized(here / "disk", 20))
    assert "too small, the image has" in flash("--image", images(), "--write", card, "--yes")
    assert not any((here / "disk").read_bytes())


def test_a_bundle_that_does_not_fit_leaves_the_card_alone(here: Path, images: Images, loops: Loops) -> None:
    card = loops(sized(here / "disk", 64))
    assert "the bundle is for aarch64" in flash("--image", images("bookworm", 32), "--write", card, "--yes")
    assert not any((here / "disk").read_bytes())


def test_a_card_that_is_mounted(here: Path, images: Images, loops: Loops) -> None:
    card = loops(sized(here / "disk", 64))
    (here / "link").symlink_to(card)
    cards.run("mke2fs", "-q", "-t", "ext4", card)
    with ExitStack() as stack:
        at = mounted(stack, here / "at", card)
        for name in (card, "link"):
            assert f"mounted at {at}; unmount it first" in flash("--image", images(), "--write", name, "--yes")
        assert "cannot be opened: Device or resource busy; unmount it" in flash("--boot", card)
    assert flash("--image", images(), "--write", "link", "--yes").endswith("╯\n")


def test_a_mounted_partition_of_a_card(here: Path, images: Images, loops: Loops) -> None:
    if shutil.which("partx") is None:
        pytest.skip("partx is not installed")
    card = loops(cards.copy(images(), here / "disk"))
    cards.run("partx", "-a", card)
    with ExitStack() as stack:
        # other processes may have seen the mount in namespaces of their own, and hold on to it for a while
        stack.callback(subprocess.run, ["partx", "-d", card], capture_output=True, check=False)
        assert "a partition; name the whole disk" in flash("--image", images(), "--write", f"{card}p2", "--yes")
        at = mounted(stack, here / "at", f"{card}p2")
        assert f"mounted at {at}" in flash("--image", images(), "--write", card, "--yes")


def test_a_card_that_breaks_is_marked_and_does_not_start(here: Path, images: Images, loops: Loops) -> None:
    """Its file lies on a disk that is full before the image is whole."""
    with ExitStack() as stack:
        disk = sized(mounted(stack, here / "small", "-t", "tmpfs", "-o", "size=12m", "none") / "disk", 64)
        (here / "full").mkdir()
        source = cards.assemble(
            here / "full",
            cards.boot_files("bookworm", 64) | {"kernel9.img": os.urandom(20 * MIB)},
            cards.root_files("bookworm", 64),
        )
        device = cards.run("losetup", "--find", "--show", disk).decode().strip()
        stack.callback(cards.run, "losetup", "-d", device)
        shown = flash("--image", source, "--write", device, "--yes")
        assert "the card is marked incomplete and does not start" in shown
        assert "\n" not in shown.splitlines()[-1]
        assert disk.read_bytes()[:512] == writing.INCOMPLETE
