"""`firstrun.sh` as sh runs it, in a root of its own whose programs write down what they are called with."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedfleet.cloud.flash import firstrun
from fedfleet.cloud.flash.owner import Owner, Wifi, psk

NASTY = [
    "it's",
    'say "hi"',
    "#1 $HOME `id` \\n",
    "$(touch pwned)",
    "Café ☕",
    "%s%n",
    "a;b;",
    " blank at both ends ",
    "-h",
    "!!",
    "*",
    "~",
    "a=b",
    "[wifi]",
    "trailing\\",
    "{{x}}",
    "null",
]
KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB2Wq0yTn5o8vGcE1sXkH3uJm4pQrS7tUvWxYz0123ab ada\'s key $(id) "x"'
HASH = "$6$salt$abcdefghijklmnopqrstuvwxyz./0123456789"
NOTE = """#!/bin/sh
{{ printf '%s' "$(basename "$0")"; for word; do printf '\\037%s' "$word"; done; printf '\\036'; }} >>{log}
{more}
"""
PASSWD = "pi:x:1000:1000::{root}/home/pi:/bin/bash"
FIXUP = re.compile(rb"rm.*firstrun\.sh$", re.M)


@dataclass(frozen=True)
class Board:
    """A root of its own. With `helpers`, the image's own programs are there."""

    root: Path
    helpers: bool

    def __post_init__(self) -> None:
        for folder in (
            "bin",
            "boot/firmware/fedfleet",
            "etc/ssh",
            "etc/systemd/system",
            "etc/NetworkManager/system-connections",
            "home/pi",
        ):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name in ("usermod", "groupmod", "systemctl", "raspi-config", "chown", "ln"):
            self._stub(f"bin/{name}")
        self._stub("bin/chpasswd", "cat >>" + str(self.root / "passwords"))
        self._stub("bin/getent", f"echo '{PASSWD.format(root=self.root)}'")
        self._stub("bin/install", 'while [ $# -gt 1 ]; do shift; done; mkdir -p "$1"')
        if self.helpers:
            self._stub("usr/lib/raspberrypi-sys-mods/imager_custom")
            self._stub("usr/lib/userconf-pi/userconf")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1\traspberrypi\n")
        (self.root / "etc/hostname").write_text("raspberrypi\n")
        (self.root / "boot/firmware/fedfleet/install.sh").write_text("echo installed\n")

    def _stub(self, name: str, more: str = "") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTE.format(log=self.root / "log", more=more))
        path.chmod(0o755)

    def start(self, owner: Owner) -> list[list[str]]:
        """Run the script as the initramfs leaves it; return the programs that ran, with their words."""
        script = FIXUP.split(firstrun.script(owner))[0].decode() + "exit 0\n"
        for folder in ("/usr/lib/", "/etc/", "/boot/firmware", "/home/"):
            script = script.replace(f"{folder}", f"{self.root}{folder}")
        (self.root / "log").write_text("")
        (self.root / "firstrun.sh").write_text(script, encoding="utf-8")
        done = subprocess.run(
            ["sh", self.root / "firstrun.sh"],
            cwd=self.root,
            env={"PATH": f"{self.root}/bin:/usr/bin:/bin"},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        log = (self.root / "log").read_text(encoding="utf-8")
        return [record.split("\037") for record in log.split("\036") if record and not record.startswith("getent")]

    def read(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "root", helpers=True)


@pytest.fixture
def bare(tmp_path: Path) -> Board:
    return Board(tmp_path / "root", helpers=False)


def keyfile_name(value: str) -> str:
    """The network's name that NetworkManager reads in `ssid=`: bytes where it is a list, else text as it stands."""
    if re.fullmatch(r"(\d+;)+", value):
        return bytes(int(number) for number in value.split(";")[:-1]).decode()
    assert "\\" not in value
    assert ";" not in value
    assert value == value.strip()
    return value


@pytest.mark.parametrize("ssid", NASTY)
def test_a_network_reaches_the_image_s_own_program_whatever_its_name_is(board: Board, ssid: str) -> None:
    key = psk(ssid, "correct horse")
    ran = board.start(Owner(wifi=Wifi(ssid, key), country="DE"))
    (called,) = (words for words in ran if words[0] == "imager_custom")
    assert called[1] == "set_wlan"
    assert keyfile_name(called[2]) == ssid
    assert called[3:] == [key, "DE"]
    assert not called[2].startswith("-")
    assert not (board.root / "pwned").exists()


@pytest.mark.parametrize("ssid", NASTY)
def test_without_that_program_the_script_writes_the_connection_itself(bare: Board, ssid: str) -> None:
    key = psk(ssid, "correct horse")
    ran = bare.start(Owner(wifi=Wifi(ssid, key), country="DE"))
    path = bare.root / "etc/NetworkManager/system-connections/preconfigured.nmconnection"
    assert path.stat().st_mode & 0o777 == 0o600
    lines = path.read_text(encoding="utf-8").splitlines()
    (name,) = (line.removeprefix("ssid=") for line in lines if line.startswith("ssid="))
    assert keyfile_name(name) == ssid
    assert f"psk={key}" in lines
    assert ["raspi-config", "nonint", "do_wifi_country", "DE"] in ran


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(lambda text: len(text.encode()) <= 32)
)
def test_any_name_round_trips(board: Board, ssid: str) -> None:
    (called,) = (words for words in board.start(Owner(wifi=Wifi(ssid), country="DE")) if words[0] == "imager_custom")
    assert (keyfile_name(called[2]), called[3]) == (ssid, "")


def test_everything_is_asked_for_in_the_image_s_own_words(board: Board) -> None:
    owner = Owner("ada", HASH, (KEY, KEY + "2"), "pump-1", "Europe/Berlin")
    assert board.start(owner) == [
        ["imager_custom", "set_hostname", "pump-1"],
        ["imager_custom", "enable_ssh", "-k", KEY, KEY + "2"],
        ["userconf", "ada", HASH],
        ["imager_custom", "set_timezone", "Europe/Berlin"],
    ]
    assert board.read("boot/firmware/fedfleet/install.log") == "installed\n"


def test_without_the_image_s_programs_all_is_done_by_hand(bare: Board) -> None:
    ran = bare.start(Owner("ada", HASH, (KEY,), "pump-1", "Europe/Berlin"))
    assert bare.read("etc/hostname") == "pump-1\n"
    assert bare.read("etc/hosts") == "127.0.0.1 localhost\n127.0.1.1 pump-1\n"
    assert bare.read("home/pi/.ssh/authorized_keys") == KEY + "\n"
    assert (bare.root / "home/pi/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert bare.read("etc/ssh/sshd_config") == "PasswordAuthentication no\n"
    assert bare.read("passwords") == f"ada:{HASH}\n"
    assert bare.read("etc/timezone") == "Europe/Berlin\n"
    assert ["usermod", "-l", "ada", "pi"] in ran
    assert ["systemctl", "enable", "ssh"] in ran


def test_a_user_with_a_key_alone_is_set_up_all_the_same(board: Board) -> None:
    assert ["userconf", "ada", ""] in board.start(Owner("ada", keys=(KEY,)))


def test_an_installation_that_fails_is_tried_again_when_there_is_a_network(board: Board) -> None:
    script = board.root / "boot/firmware/fedfleet/install.sh"
    script.write_text("echo no network; exit 2\n")
    assert board.start(Owner()) == [["systemctl", "enable", "fedfleet-install.service"]]
    assert board.read("boot/firmware/fedfleet/install.log") == "no network\n"
    unit = board.read("etc/systemd/system/fedfleet-install.service")
    (command,) = re.findall("(?m)^ExecStart=(.*)$", unit)
    script.write_text("echo installed\n")
    subprocess.run(command, shell=True, check=True)
    assert board.read("boot/firmware/fedfleet/install.log") == "installed\n"
    assert "ExecStartPost=/bin/systemctl disable fedfleet-install.service" in unit


def test_systemd_finds_nothing_wrong_with_that_unit(board: Board) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (board.root / "boot/firmware/fedfleet/install.sh").write_text("exit 2\n")
    board.start(Owner())
    unit = board.root / "etc/systemd/system/fedfleet-install.service"
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert unit.name not in done.stderr, done.stderr


def test_what_is_not_asked_for_is_not_touched(board: Board) -> None:
    assert board.start(Owner()) == []
    assert board.start(Owner(country="DE")) == [["imager_custom", "set_wlan_country", "DE"]]


@pytest.mark.parametrize("owner", [Owner(), Owner("ada", HASH, (KEY,), "pump-1", "Europe/Berlin", "DE", Wifi("x"))])
def test_the_initramfs_cuts_the_script_at_its_last_real_line(owner: Owner) -> None:
    """A second line that matches would lose all that follows it; one that speaks of wpa_supplicant loses the network."""
    script = firstrun.script(owner)
    (match,) = FIXUP.finditer(script)
    after = script[match.end() :].split()
    assert match[0] == b"rm -f /boot/firstrun.sh"
    assert b" ".join(after) == rb"sed -i 's| systemd\.[^ ]*||g' /boot/cmdline.txt exit 0"
    assert b"install.sh" in script[: match.start()]
    assert b"wpa_supplicant" not in script


def test_the_hook_stands_once_on_a_single_line() -> None:
    before = b"console=tty1 root=PARTUUID=4e639091-02 quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
    after = firstrun.cmdline(before)
    assert after == before.rstrip(b"\n") + firstrun.HOOK.encode() + b"\n"
    assert firstrun.cmdline(after) == after
    assert after.count(b"systemd.run=/boot/firstrun.sh ") == 1


def test_a_tool_that_knows_shell_finds_nothing(tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    owner = Owner("ada", HASH, (KEY,), "pump-1", "Europe/Berlin", "DE", Wifi("it's", "a" * 64))
    (tmp_path / "firstrun.sh").write_bytes(firstrun.script(owner))
    done = subprocess.run(["shellcheck", "-S", "warning", tmp_path / "firstrun.sh"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
