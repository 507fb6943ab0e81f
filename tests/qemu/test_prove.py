"""What the proof asks of a board, shown on parts that have it and parts that have not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from arm import roots
from qemu import cloud, prove
from qemu.cloud import Cloud
from qemu.image import Image
from qemu.machine import Board

from fedfleet.cloud.settings import load_aggregator
from fedfleet.edge.settings import load_agent

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
SOUND = "pid=7 active=active restarts=0 fed={fed} uid=996 seccomp=2 nonewprivs=1 capabilities=0000000000000000"


@needs_systemd
def test_a_unit_without_a_sandbox_is_told_from_the_agents(tmp_path: Path) -> None:
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert prove.exposure(bare) > 9
    assert prove.exposure(roots.ROOT / "edge" / "install" / "fedfleet-agent.service") <= prove.EXPOSURE
    with pytest.raises(prove.Wrong, match=r"no word on none\.service"):
        prove.exposure(tmp_path / "none.service")


def reporting(folder: Path, *lines: str) -> Board:
    board = Board(Image(folder, folder, folder), folder, folder)
    board.console.write_text("\n--- start 1: quiet\n" + "".join(f"report {line}\n" for line in lines))
    return board


def test_an_agent_that_is_shut_in_and_fed_is_as_it_must_be(tmp_path: Path) -> None:
    prove.watched(reporting(tmp_path, SOUND.format(fed=1), SOUND.format(fed=2)))


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("active=active", "active=activating", "unit must be active"),
        ("restarts=0", "restarts=1", "run through"),
        ("pid=7", "pid=8", "run through"),
        ("fed=2", "fed=1", "watchdog must be fed"),
        ("uid=996", "uid=0", "must not be root"),
        ("seccomp=2", "seccomp=0", "seccomp, no new privileges"),
        ("nonewprivs=1", "nonewprivs=0", "seccomp, no new privileges"),
        ("0000000000000000", "0000000000000400", "seccomp, no new privileges"),
    ],
)
def test_an_agent_that_is_not_so_is_wrong(tmp_path: Path, was: str, becomes: str, told: str) -> None:
    last = SOUND.format(fed=2).replace(was, becomes)
    with pytest.raises(prove.Wrong, match=told):
        prove.watched(reporting(tmp_path, SOUND.format(fed=1), last))


def test_a_board_that_has_reported_nothing_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(prove.Wrong, match="said nothing"):
        prove.watched(reporting(tmp_path))


def test_settings_of_both_sides_are_those_that_the_product_takes(tmp_path: Path) -> None:
    fleet = Cloud(tmp_path)
    (tmp_path / "agent.toml").write_text(fleet.settings(cloud.GUEST, cloud.SEEN_BY_GUEST, "/s", "/s/claim.pem", "/i"))
    settings, state = load_agent(tmp_path / "agent.toml")
    assert (settings.broker.host, settings.broker.port) == ("10.0.2.2", fleet.port)
    assert (settings.broker.ca, settings.broker.key, str(state)) == ("/s/identity.pem", "/s/identity.pem", "/s")
    (tmp_path / "settings.toml").write_text(cloud.AGGREGATOR.format(fleet=cloud.FLEET, port=fleet.port))
    found = load_aggregator(tmp_path / "settings.toml")
    assert (found.fleet, found.rounds.devices) == ("mill", 1 + len(cloud.NATIVE))


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(cloud.Failed, match=r"^fedfleet pki show .*: .*pki init"):
        cloud.fedfleet("pki", "show", tmp_path / "none")
