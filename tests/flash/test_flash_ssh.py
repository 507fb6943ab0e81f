"""`fedfleet flash --ssh`: what reaches ssh, by an `ssh` of the test's own that plays the board."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from pathlib import Path

import cards
import commands
import pytest

COMMON = ("--settings", "pump-1.toml", "--claim", "claim.pem", "--ssh", "pi@pump-1.local")
BOARD = """#!/bin/sh
case "$*" in
*"-O exit"*) exit 0 ;;
*install.sh*) cat >{here}/sent.tar; echo "fedfleet: {said}" ;;
*) printf 'system=Raspberry Pi OS\\ncodename=bookworm\\narch=arm64\\nkernel=aarch64\\npython=3.11\\nfree=9999999\\nuser=0\\nsudo=yes\\n' ;;
esac
echo "$*" >>{here}/called
"""


@pytest.fixture
def board(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an `ssh` before all others."""
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    (here / "bin").mkdir()
    cards.bundle(here / "bundle", **{"fedfleet_agent-0.1.0-py3-none-any.whl": agent(here)})
    play(here, "0.1.0 is installed")
    return here


def agent(folder: Path) -> bytes:
    """A wheel of the agent's name; what it lacks is taken from the agent that is installed."""
    with zipfile.ZipFile(folder / "agent.whl", "w") as wheel:
        wheel.writestr("nothing.txt", "")
    return (folder / "agent.whl").read_bytes()


def play(here: Path, said: str) -> None:
    (here / "bin/ssh").write_text(BOARD.format(here=here, said=said))
    (here / "bin/ssh").chmod(0o755)


def test_a_board_gets_bundle_settings_and_claim(board: Path) -> None:
    shown = commands.run("flash", *COMMON, "--bundle", "bundle", "--json", "facts.json")
    assert "pi@pump-1.local: Raspberry Pi OS, Python 3.11" in shown
    assert "0.1.0 is installed" in shown
    with tarfile.open(board / "sent.tar") as sent:
        found = {member.name: sent.extractfile(member).read() for member in sent}  # type: ignore[union-attr]
    assert found["agent.toml"] == (board / "pump-1.toml").read_bytes()
    assert found["claim.pem"] == (board / "claim.pem").read_bytes()
    assert found["release.json"] == (board / "bundle/release.json").read_bytes()
    facts = json.loads((board / "facts.json").read_text())
    assert (facts["changed"], facts["place"], facts["device"]) == (True, "pi@pump-1.local", "pump-1")
    assert "rows" not in facts
    play(board, "0.1.0 is installed; nothing changed")
    commands.run("flash", *COMMON, "--bundle", "bundle", "--json", "facts.json")
    assert json.loads((board / "facts.json").read_text())["changed"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--hostname", "pump-1"), "--ssh installs the agent alone"),
        (("--boot", "x"), "say what to make"),
        (("--image", "x", "--out", "y"), "say what to make"),
    ],
)
def test_what_does_not_go_over_ssh(board: Path, options: tuple[str, ...], words: str) -> None:
    assert words in commands.run("flash", *COMMON, "--bundle", "bundle", *options)
    assert not (board / "called").exists()


def test_settings_and_claim_are_checked_before_the_board_is_called(board: Path) -> None:
    cards.claim(board / "claim.pem", fleet="fans")
    assert "the claim is for the fleet fans" in commands.run("flash", *COMMON, "--bundle", "bundle")
    assert not (board / "called").exists()


def test_a_card_needs_a_bundle(here: Path) -> None:
    assert "a card needs --bundle" in commands.run("flash", *COMMON[:4], "--boot", "x")
