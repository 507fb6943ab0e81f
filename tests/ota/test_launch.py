"""`launch`: what it starts, when it goes back, and a power cut behind each of its commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ota.boards import LAUNCH

COMMANDS = ("sync", "mv", "ln", "rm", "sed", "readlink")
WRAPPER = """#!/bin/sh
count=$(($(cat "$COUNT") + 1))
echo $count >"$COUNT"
[ $count = "$BEFORE" ] && kill -9 0
{real} "$@"
code=$?
[ $count = "$AFTER" ] && kill -9 0
exit $code
"""
STUB = '#!/bin/sh\necho "${FEDFLEET_SLOT##*/} $PYTHONPATH $*" >>"$STARTED"\n'
TRIAL = {"slot": "2.0.0", "starts": 0, "serial": 7, "got": "it connected"}


class Card:
    """A board's slots, and a stub in Python's place that notes what is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slots = folder / "slots"
        for version in ("1.0.0", "2.0.0"):
            main = self.slots / version / "site" / "fedfleet" / "edge" / "__main__.py"
            main.parent.mkdir(parents=True)
            main.touch()
        (self.slots / "current").symlink_to("2.0.0")
        (self.slots / "previous").symlink_to("1.0.0")
        (folder / "commands").mkdir()
        for name in COMMANDS:
            self.script(folder / "commands" / name, WRAPPER.replace("{real}", str(shutil.which(name))))
        self.script(folder / "python", STUB)

    @staticmethod
    def script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def trial(self, **fields: Any) -> None:
        (self.slots / "trial.json").write_text(json.dumps({**TRIAL, **fields}) + "\n")

    def note(self, name: str) -> Any:
        path = self.slots / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def launch(self, before: int = -1, after: int = -1) -> subprocess.CompletedProcess[str]:
        """Run it; the power goes before or after the command of that number, where there is one."""
        (self.folder / "count").write_text("0\n")
        environment = {
            "PATH": (f"{self.folder / 'commands'}:" if before + after > -2 else "") + os.environ["PATH"],
            "COUNT": str(self.folder / "count"),
            "BEFORE": str(before),
            "AFTER": str(after),
            "STARTED": str(self.folder / "started"),
            "FEDFLEET_SLOTS": str(self.slots),
            "FEDFLEET_SETTINGS": "/etc/agent.toml",
            "FEDFLEET_PYTHON": str(self.folder / "python"),
        }
        return subprocess.run(
            [str(LAUNCH)], env=environment, start_new_session=True, capture_output=True, text=True, check=False
        )

    @property
    def commands(self) -> int:
        """How many commands the last launch ran."""
        return int((self.folder / "count").read_text())

    @property
    def started(self) -> list[str]:
        """The versions that were started."""
        path = self.folder / "started"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def current(self) -> str:
        return (self.slots / "current").readlink().name


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path / "card")


def test_the_current_version_is_started_with_its_own_wheels(card: Card) -> None:
    assert card.launch().returncode == 0
    line = (card.folder / "started").read_text().split()
    assert line == ["2.0.0", f"{card.slots}/2.0.0/site", "-m", "fedfleet.edge", "--settings", "/etc/agent.toml"]


def test_a_version_on_trial_has_three_starts(card: Card) -> None:
    card.trial()
    for count in (1, 2, 3):
        card.launch()
        assert card.note("trial") == {**TRIAL, "starts": count}
    said = card.launch().stderr
    assert said == "fedfleet: version 2.0.0 has failed (it connected); going back to 1.0.0\n"
    assert card.started == ["2.0.0"] * 3 + ["1.0.0"]
    assert (card.current, card.note("trial")) == ("1.0.0", None)
    assert card.note("failed") == {**TRIAL, "starts": 3}
    card.launch()
    assert card.started[-1] == "1.0.0"


def test_who_says_nothing_is_said_to_have_said_nothing(card: Card) -> None:
    card.trial(starts=3, got="")
    card.launch()
    assert card.note("failed")["got"] == "it ended before it said anything"


def test_a_version_on_trial_without_files_is_gone_back_from_at_once(card: Card) -> None:
    card.trial()
    shutil.rmtree(card.slots / "2.0.0")
    card.launch()
    assert (card.started, card.current) == (["1.0.0"], "1.0.0")
    assert card.note("failed") == {**TRIAL, "starts": 3, "got": "it has no files"}


def test_a_trial_of_another_version_is_none_of_this_one(card: Card) -> None:
    """The power went when the note of the trial was written and `current` was not yet moved."""
    card.trial(slot="3.0.0")
    for _ in range(5):
        card.launch()
    assert card.started == ["2.0.0"] * 5
    assert card.note("trial") == {**TRIAL, "slot": "3.0.0"}


@pytest.mark.parametrize("text", ["", "{", "null", '{"slot": "2.0.0"', '{"starts": "x", "slot": 3}', "\x00" * 100])
def test_a_note_that_is_damaged_keeps_nothing_from_starting(card: Card, text: str) -> None:
    (card.slots / "trial.json").write_text(text)
    for _ in range(6):
        assert card.launch().returncode == 0
    assert card.started[0] == "2.0.0" and len(card.started) == 6


def test_a_good_version_that_ends_is_started_for_ever(card: Card) -> None:
    for _ in range(6):
        card.launch()
    assert card.started == ["2.0.0"] * 6


@pytest.mark.parametrize("lost", ["current", "2.0.0"])
def test_without_a_current_version_the_previous_one_is_started(card: Card, lost: str) -> None:
    path = card.slots / lost
    path.unlink() if path.is_symlink() else shutil.rmtree(path)
    card.launch()
    assert card.started == ["1.0.0"]


def test_without_both_any_that_can_be_started_is_and_without_any_it_says_so(card: Card) -> None:
    for name in ("current", "previous"):
        (card.slots / name).unlink()
    card.launch()
    assert card.started == ["1.0.0"]
    for version in ("1.0.0", "2.0.0"):
        shutil.rmtree(card.slots / version)
    ended = card.launch()
    assert ended.returncode == 1
    assert "there is no version in" in ended.stderr and "run install.sh again" in ended.stderr


def test_the_only_version_is_started_though_its_trial_has_failed(card: Card) -> None:
    card.trial(starts=3)
    (card.slots / "previous").unlink()
    card.launch()
    assert card.started == ["2.0.0"]


def test_where_the_disk_takes_no_note_the_version_on_trial_is_not_tried(card: Card) -> None:
    card.trial()
    (card.slots / ".launch.tmp").mkdir()
    said = card.launch().stderr
    assert "the disk refuses: version 2.0.0 cannot be tried, starting 1.0.0" in said
    assert (card.started, card.note("trial")) == (["1.0.0"], TRIAL)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("starts", [0, 3])
def test_a_power_cut_at_each_command_leaves_a_version_that_starts(tmp_path: Path, starts: int, when: str) -> None:
    """Whatever was cut, in the end the bad version had three starts at most and the board is back at the old one."""
    whole = Card(tmp_path / "whole")
    whole.trial(starts=starts)
    whole.launch(before=0)
    assert whole.commands >= 8
    for at in range(1, whole.commands + 1):
        card = Card(tmp_path / str(at))
        card.trial(starts=starts)
        cut = card.launch(**{when: at})
        assert cut.returncode == -9, "the power did not go"
        first = len(card.started)
        assert first == 0
        for _ in range(6):
            assert card.launch().returncode == 0
        assert len(card.started) == 6
        assert card.started.count("2.0.0") <= 3 - starts
        assert card.started[-1] == card.current == "1.0.0"
        assert card.note("trial") is None
        assert card.note("failed")["slot"] == "2.0.0"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    assert subprocess.run(["shellcheck", str(LAUNCH)], capture_output=True, text=True, check=False).stdout == ""
