"""The first start of a card under a real systemd: what was written onto it installs the agent, without a network."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path

import cards
import pytest
import systemd
import yaml
from systemd import Machine

from fedfleet.cloud.bundle.boards import Board
from fedfleet.cloud.bundle.make import make
from fedfleet.cloud.flash import agentfile, bundle, claim
from fedfleet.cloud.flash.apply import apply
from fedfleet.cloud.flash.boot import Folder
from fedfleet.cloud.flash.content import Wanted, compose
from fedfleet.cloud.flash.owner import Owner
from fedfleet.cloud.flash.system import System
from fedfleet.wire.errors import SettingsError

pytestmark = pytest.mark.skipif(bool(systemd.lacking()), reason=systemd.lacking())
PYTHON = Path("/usr/bin/python3")
RETRY = "fedfleet-install.service"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle for this machine; its wheels come from the cache once they have been fetched."""
    if not PYTHON.is_symlink():
        pytest.skip(f"{PYTHON} is not there, or not as Debian has it")
    version = PYTHON.readlink().name.rpartition("python")[2]
    lock = "lock-32.txt" if version == "3.11" else "lock.txt"
    out = tmp_path_factory.mktemp("made") / "bundle"
    try:
        make(Board("here", version, platform.machine(), 34, lock), out)
    except SettingsError as error:
        pytest.skip(str(error))
    return out


@pytest.fixture
def card(tmp_path: Path, made: Path) -> Iterator[tuple[Path, Wanted]]:
    """The folder of a boot partition, and what is to go onto it."""
    (tmp_path / "pump-1.toml").write_text(cards.SETTINGS)
    found = bundle.load(made)
    agent = agentfile.load(tmp_path / "pump-1.toml", found.files)
    yield (
        tmp_path / "bootfs",
        Wanted(found, agent, Owner(timezone="Europe/Berlin"), claim.load(cards.claim(tmp_path / "c"))),
    )


def flash(place: Path, wanted: Wanted, release: str) -> None:
    """Write what `fedfleet flash --boot` would, which knows no boards of this machine's kind."""
    style = {"bookworm": "firstrun", "trixie": "cloud-init"}[release]
    cards.lay(place, cards.boot_files(release, 64))
    system = System(style, release, platform.machine(), wanted.bundle.release.python, "the test")
    apply(Folder(place), compose(wanted, system, (place / "cmdline.txt").read_bytes()), "card")


def mount(machine: Machine, place: Path) -> None:
    """The partition where Raspberry Pi OS has it, writable."""
    machine.said("mkdir", "-p", "/boot/firmware")
    machine.said("mount", "--bind", str(place), "/boot/firmware")


def first_run(machine: Machine, place: Path) -> None:
    """Run the script as the initramfs leaves it, and as systemd runs it."""
    script = (place / "firstrun.sh").read_text()
    head = re.split(r"(?m)^rm.*firstrun\.sh$", script)[0]
    (place / "firstrun.sh").write_text(f"{head}rm -f /boot/firmware/firstrun.sh\nexit 0\n")
    (place / "firstrun.sh").chmod(0o755)
    machine.said("/boot/firmware/firstrun.sh")
    assert not (place / "firstrun.sh").exists()


def require_installed(machine: Machine, place: Path, wanted: Wanted) -> None:
    log = (place / "fedfleet/install.log").read_text()
    assert log.splitlines()[-1].endswith("is installed"), log
    assert machine.said("cat", "/etc/fedfleet/agent.toml") == cards.SETTINGS.strip()
    assert wanted.claim is not None
    assert machine.said("cat", "/var/lib/fedfleet/claim.pem") == wanted.claim.data.decode().strip()
    assert not (place / "fedfleet/claim.pem").exists()
    assert machine.said("systemctl", "is-enabled", "fedfleet-agent.service") == "enabled"


def test_bookworm(tmp_path: Path, card: tuple[Path, Wanted]) -> None:
    place, wanted = card
    flash(place, wanted, "bookworm")
    with systemd.booted(tmp_path) as machine:
        mount(machine, place)
        first_run(machine, place)
        require_installed(machine, place, wanted)
        assert machine.said("cat", "/etc/timezone") == "Europe/Berlin"
        assert machine.run("systemctl", "is-enabled", RETRY).stdout.strip() != "enabled"


def test_trixie(tmp_path: Path, card: tuple[Path, Wanted]) -> None:
    """cloud-init itself is not here: its `runcmd` are run as it runs them."""
    place, wanted = card
    flash(place, wanted, "trixie")
    with systemd.booted(tmp_path) as machine:
        mount(machine, place)
        for command in yaml.safe_load((place / "user-data").read_bytes())["runcmd"]:
            machine.said(*command)
        require_installed(machine, place, wanted)


def test_bookworm_finishes_when_there_is_a_network(tmp_path: Path, card: tuple[Path, Wanted]) -> None:
    """As on 32-bit boards, which must fetch Debian's numpy: here the first call of install.sh fails."""
    place, wanted = card
    flash(place, wanted, "bookworm")
    script = (place / "fedfleet/install.sh").read_text()
    (place / "fedfleet/install.sh").write_text("#!/bin/sh\necho no network; exit 2\n")
    with systemd.booted(tmp_path) as machine:
        mount(machine, place)
        first_run(machine, place)
        assert (place / "fedfleet/install.log").read_text() == "no network\n"
        assert machine.said("systemctl", "is-enabled", RETRY) == "enabled"
        (place / "fedfleet/install.sh").write_text(script)
        machine.said("systemctl", "start", RETRY)
        require_installed(machine, place, wanted)
        assert machine.run("systemctl", "is-enabled", RETRY).stdout.strip() == "disabled"
