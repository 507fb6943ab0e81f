"""A board that runs, over a real sshd: looked at first, installed once, and told in one line what is wrong."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sshd
import systemd
import trees
from brokers import KINDS
from processes import until
from sshd import HOST

from fedfleet.cloud.bundle.boards import Board
from fedfleet.cloud.bundle.make import make
from fedfleet.cloud.flash.ssh import Found, install
from fedfleet.sim.brokers import running
from fedfleet.wire.errors import SettingsError

SETTINGS = trees.SETTINGS.encode()
CLAIM = b"# fedfleet claim\n-----BEGIN CERTIFICATE-----\nsecret\n"
pytestmark = pytest.mark.skipif(bool(sshd.lacking()), reason=sshd.lacking())
PI = Found("Raspbian GNU/Linux 12", "bookworm", "armv7l", "aarch64", "3.11", 10**6, 1000, True)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    (tmp_path / "sshd").mkdir()
    with sshd.serving(tmp_path / "sshd") as options:
        yield options


@pytest.fixture
def tree(tmp_path: Path, here: Board) -> Path:
    found = trees.tree(tmp_path / "tree")
    trees.numpy(found)
    trees.python(found, here.python, here.machine)
    return found


@pytest.fixture
def small_bundle(tmp_path: Path, here: Board) -> Path:
    """The agent alone, for this machine."""
    (tmp_path / "empty.txt").touch()
    make(replace(here, lock=str(tmp_path / "empty.txt")), tmp_path / "bundle", version="1.2")
    return tmp_path / "bundle"


def test_it_installs_once_and_says_so_the_second_time(link: tuple[str, ...], tree: Path, small_bundle: Path) -> None:
    ticks = list[tuple[str, int, int]]()
    left = set(Path("/tmp").glob("fedfleet.*"))

    def again(claim: bytes | None = None) -> tuple[str, bool]:
        tick = lambda *said: ticks.append(said)  # noqa: E731
        report = install(HOST, small_bundle, SETTINGS, claim, options=link, root=str(tree), tick=tick)
        assert (report.host, report.version, report.found.machine) == (HOST, "1.2", platform.machine())
        return report.said, report.fresh

    assert again(CLAIM) == (f"1.2 is installed in {tree}", True)
    assert (tree / "etc/fedfleet/agent.toml").read_bytes() == SETTINGS
    assert (tree / trees.VAR / "claim.pem").read_bytes() == CLAIM
    assert (tree / trees.VAR / "slots/current/site/fedfleet/edge/agent.py").is_file()
    assert again() == ("1.2 is installed; nothing changed", False)
    assert ticks[-1][1] == ticks[-1][2] > 100_000
    assert set(Path("/tmp").glob("fedfleet.*")) == left


def test_a_bundle_for_another_board_is_refused_before_anything_is_copied(
    tmp_path: Path, link: tuple[str, ...], tree: Path
) -> None:
    before = trees.picture(tree)
    other = trees.bundle(tmp_path / "other")
    with pytest.raises(SettingsError, match=r"the bundle is for aarch64 with Python 3.11, the board is|fedfleet knows"):
        install(HOST, other, SETTINGS, options=link, root=str(tree))
    with pytest.raises(SettingsError, match="fedfleet knows bookworm64, bookworm32, trixie64"):
        install(HOST, None, SETTINGS, options=link, root=str(tree))  # none is known for this machine
    assert trees.picture(tree) == before


def test_what_install_sh_refuses_is_the_error(link: tuple[str, ...], tree: Path, small_bundle: Path) -> None:
    with pytest.raises(
        SettingsError, match=f"^{HOST}: .*agent.toml: the service may only write below /var/lib/fedfleet"
    ):
        install(HOST, small_bundle, b'device = "d1"\nfleet = "mill"\n', options=link, root=str(tree))
    assert not (tree / trees.VAR).exists()


def test_a_board_that_is_not_there_or_lets_nobody_in(tmp_path: Path, link: tuple[str, ...], small_bundle: Path) -> None:
    shutil.copy(tmp_path / "sshd" / "host.pub", tmp_path / "sshd" / "client.pub")  # no longer the client's key
    with pytest.raises(SettingsError, match=f"^{HOST}: .*Permission denied.*; try `ssh {HOST}` by hand first"):
        install(HOST, small_bundle, SETTINGS, options=link)
    with pytest.raises(SettingsError, match="try `ssh no-such-host.invalid` by hand first"):
        install("no-such-host.invalid", small_bundle, SETTINGS, options=link)


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch /tmp/pwned", "pi @pump"])
def test_what_is_no_host(host: str, small_bundle: Path) -> None:
    with pytest.raises(SettingsError, match="name a host as ssh does"):
        install(host, small_bundle, SETTINGS)


def test_a_login_that_is_no_shell(tmp_path: Path, small_bundle: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with sshd.serving(tmp_path / "sshd", "ForceCommand /bin/echo This account is for backups") as options:
        with pytest.raises(SettingsError, match="does not answer as Raspberry Pi OS or Debian does"):
            install(HOST, small_bundle, SETTINGS, options=options)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (PI, "bookworm32"),  # under a 64-bit kernel, as Raspberry Pi OS has it
        (replace(PI, machine="aarch64"), "bookworm64"),
        (replace(PI, machine="aarch64", python="3.13"), "trixie64"),
    ],
)
def test_which_bundle_fits(found: Found, name: str) -> None:
    assert found.board().name == name


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (replace(PI, python="3.13"), "no LiteRT runtime for Python 3.13 on 32-bit ARM"),
        (replace(PI, kernel="armv6l"), "on an ARMv6 processor: it has no LiteRT runtime"),
        (replace(PI, python="3.9"), "with Python 3.9 on armv7l: fedfleet knows bookworm64"),
        (replace(PI, python=""), r"with Python \(none\) on armv7l"),
    ],
)
def test_a_board_that_no_bundle_fits(found: Found, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        found.board()


def test_the_claim_is_never_in_a_command_line(
    link: tuple[str, ...], tree: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on a command line all users of a machine can read."""
    (tree.parent / "bin").mkdir()
    spy = tree.parent / "bin" / "ssh"
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tree.parent}/said\nexec {shutil.which("ssh")} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
    install(HOST, small_bundle, SETTINGS, CLAIM, options=link, root=str(tree))
    said = (tree.parent / "said").read_text()
    assert "install.sh" in said
    assert "secret" not in said and "d1" not in said


@pytest.mark.skipif(bool(systemd.lacking()), reason=systemd.lacking())
def test_a_whole_board_from_nothing_to_a_service_that_runs(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "sshd").mkdir()
    settings = f'device = "d1"\nfleet = "mill"\nstate = "/{trees.VAR}/state"\n'.encode()
    with running(KINDS[0], tmp_path) as (broker, _), systemd.booted(tmp_path) as machine:
        settings += f"[broker]\nport = {broker.port}\n".encode()
        machine.said("mkdir", "/run/sshd")
        with sshd.serving(tmp_path / "sshd", within=machine.enter) as options:
            first = install(HOST, bundle, settings, options=options)
            assert (first.said, first.fresh) == (f"{first.version} is installed", True)
            assert until(lambda: machine.shows("ActiveState") == "active", 30)
            assert machine.shows("StatusText") in ("device d1 of fleet mill", "waiting")
            assert not install(HOST, bundle, settings, options=options).fresh
            assert machine.said("sh", "-c", "ls -d /tmp/fedfleet.* || true") == ""
