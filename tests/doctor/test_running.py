"""Doctor beside an agent that runs: the agent keeps its link, and its own word is taken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from certificates import needs_openssl
from patients import Patient, diagnoses, examined
from processes import ROOT, until

from fedfleet.edge.running import LinkNote, Running, hold, holder, noted
from fedfleet.wire.errors import StoreError

LAUNCH = ROOT / "edge" / "install" / "launch"


@contextmanager
def agent(patient: Patient) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "fedfleet.edge", "--settings", str(patient.file)]
    with (patient.folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=patient.environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@needs_mosquitto
@needs_openssl
def test_a_running_agent_is_not_thrown_out(patient: Patient) -> None:
    patient.lines.append("use_username_as_clientid true")
    with patient.up(), agent(patient) as process:
        assert until(lambda: noted(patient.state) == LinkNote(1, ""))
        code, checks = examined(patient)
        assert noted(patient.state) == LinkNote(1, "")
    assert (code, diagnoses(checks)) == (0, [])
    assert f"process {process.pid}" in checks["agent"]["seen"]
    assert checks["mqtt"]["seen"] == "the agent says that its link is up, made 1 times"
    assert "would be thrown out" in checks["acl"]["seen"]


@needs_mosquitto
def test_what_keeps_a_running_agent_away_is_its_own_word(patient: Patient) -> None:
    patient.broker = {"port": patient.broker["port"]}
    patient.lines = [f"listener {patient.broker['port']} 127.0.0.1", "allow_anonymous false"]
    with patient.up(), agent(patient):
        assert until(lambda: "ot authori" in (noted(patient.state) or LinkNote()).reason)
        checks = examined(patient)[1]
    assert diagnoses(checks) == [("mqtt", "mqtt-agent")]
    assert "ot authori" in checks["mqtt"]["seen"]


def test_two_agents_may_not_share_a_state(tmp_path: Path) -> None:
    first = Running(tmp_path / "state")
    assert holder(tmp_path / "state") == os.getpid()
    with pytest.raises(StoreError, match=f"is held by process {os.getpid()}"):
        Running(tmp_path / "state")
    first.close()
    assert holder(tmp_path / "state") == 0
    Running(tmp_path / "state").close()


def test_the_note_of_an_earlier_life_is_not_taken_for_this_one_s(tmp_path: Path) -> None:
    first = Running(tmp_path)
    first.tell(3, "no broker")
    assert noted(tmp_path) == LinkNote(3, "no broker")
    first.close()
    Running(tmp_path).close()
    assert noted(tmp_path) == LinkNote(0, "")


def test_a_note_that_is_damaged_says_nothing(tmp_path: Path) -> None:
    for text in ("", "[]", '{"connections": "many"}'):
        (tmp_path / "link.json").write_text(text)
        assert noted(tmp_path) is None


def test_an_agent_waits_for_the_one_that_has_its_state_and_can_be_ended_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Running(tmp_path)
    assert hold(tmp_path, lambda _: True) is None
    assert f"is held by process {os.getpid()}" in caplog.text

    def leave(_seconds: float) -> bool:
        first.close()
        return False

    second = hold(tmp_path, leave)
    assert second is not None
    second.close()


def test_on_a_board_doctor_is_no_start_of_a_version_that_is_on_trial(tmp_path: Path) -> None:
    for version in ("1.0.0", "2.0.0"):
        main = tmp_path / version / "site" / "fedfleet" / "edge" / "__main__.py"
        main.parent.mkdir(parents=True)
        main.touch()
    (tmp_path / "current").symlink_to("2.0.0")
    (tmp_path / "previous").symlink_to("1.0.0")
    note = '{"slot": "2.0.0", "starts": 3, "serial": 7, "got": "it connected"}\n'  # one more, and it goes back
    (tmp_path / "trial.json").write_text(note)
    (tmp_path / "python").write_text('#!/bin/sh\necho "${FEDFLEET_SLOT##*/} $*"\n')
    (tmp_path / "python").chmod(0o755)
    given = {
        "FEDFLEET_SLOTS": str(tmp_path),
        "FEDFLEET_SETTINGS": "a.toml",
        "FEDFLEET_PYTHON": str(tmp_path / "python"),
    }
    ended = subprocess.run(
        ["sh", str(LAUNCH), "doctor", "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, **given},
    )  # fmt: skip
    assert ended.stdout == "2.0.0 -m fedfleet.edge --settings a.toml doctor --json\n"
    assert (tmp_path / "trial.json").read_text() == note
    assert (tmp_path / "current").readlink() == Path("2.0.0")
