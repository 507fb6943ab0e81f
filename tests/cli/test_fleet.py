"""`fedfleet fleet` at the terminal, beside an aggregator that holds the folder, once and as long as one watches."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import commands
import numpy as np
import pytest
from processes import ROOT, environment, until
from typer.testing import CliRunner

from fedfleet.cli.main import app
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.notes import Notes, Standing
from fedfleet.cloud.presence import Presence
from fedfleet.wire.messages import Blob, Plan, Status, Task, Update

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
SETTINGS = 'fleet = "pumps"\nmodel = "model"\nstate = "state"\n'
WHY = "1 reported, quorum 2; waiting for more devices; 1 declined, pump-3: no examples"
WAITING = Standing("pumps", "fedavg", 9, 3, WHY, "", 3, 2, 3, 1, 1, ("pump-3: no examples",))


class Cloud:
    """An aggregator's hold on the folder `state`: two rounds that are over, the third open, three devices."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "state")
        for number in range(1, 4):
            task = Task(
                number, Blob.of(b"program"), self.journal.blobs.put(np.full(2, number, "<f4").tobytes()), Plan()
            )
            self.journal.open_round(task, "fedavg")
            metrics = {"loss": 0.5 / number, "rss_mib": 61.25, "seconds": 2.5}
            self.journal.count(Update(number, "pump-1", 1000 * number, "int8", b"delta", metrics))
            if number == 1:
                self.journal.close_round(number, b"model", b"moments")
                self.journal.score(number, {"accuracy": 0.75})
            elif number == 2:
                self.journal.abandon_round(number)
        self.notes = Notes(folder / "state")
        for record in (
            RoundRecord(1, "closed", "all", 3, 1, 2, 1000, 0.5, 2000, 3000, 4.5, "", 61.25, {"accuracy": 0.75}),
            RoundRecord(2, "abandoned", "deadline of 60 s", 3, 1, 2, 2000, 0.25, 2000, 3000, 60.0, "", 61.25),
        ):
            self.notes.round(record)
        self.presence = Presence()
        for name, status in (
            ("pump-1", Status("ready", 1)),
            ("pump-2", Status("paused", 4, reason="82 degrees C, above 80 [guards]")),
            ("pump-3", Status("ready", 1, 3, "no examples")),
        ):
            self.presence.see(name, status)
        self.say(WAITING)

    def say(self, now: Standing) -> None:
        self.notes.devices(self.presence, now)

    def close(self) -> None:
        self.notes.close()
        self.journal.close()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    found = Cloud(tmp_path)
    yield found
    found.close()


@pytest.fixture
def here(tmp_path: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "fleet.toml").write_text(SETTINGS)
    return tmp_path


def run(*arguments: str) -> str:
    return commands.run("fleet", *arguments)


def read(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_status_says_why_the_round_waits(here: Path) -> None:
    shown = run("status", "state")
    rows = dict(cells(line) for line in shown.splitlines() if line.startswith("│") and len(cells(line)) == 2)
    assert rows["fleet"] == "pumps, fedavg"
    assert (rows["aggregator"], rows["round"]) == ("running", "3, 1 of 9 closed")
    assert rows["why"] == WHY
    assert rows["devices"] == "1 paused, 2 ready"
    assert (rows["in the round"], rows["declined"]) == ("3 called, 1 reported, 1 declined", "pump-3: no examples")
    last = [cells(line) for line in shown.splitlines() if line.startswith("│") and len(cells(line)) == 6]
    assert [(row[0], *row[2:]) for row in last[1:]] == [
        ("1", "closed", "1 of 3", "4.5", "accuracy 0.7500"),
        ("2", "abandoned", "1 of 3", "60.0", "deadline of 60 s"),
    ]


def test_the_documents_show_what_is_printed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "116")
    text = (ROOT / "docs" / "operations.md").read_text()
    shown = re.findall(r"```\n\$ fedfleet fleet (.*)\n([^`]*)```", text)
    assert [command.split()[0] for command, _ in shown] == ["status", "list", "show"]
    for command, screen in shown:
        assert TIME.sub("", run(*command.split())) == TIME.sub("", screen)


def test_the_settings_file_will_do_as_well(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    assert run("status", str(here / "fleet.toml")) == run("status", str(here / "state"))
    assert read("list", str(here / "fleet.toml")) == read("list", str(here / "state"))


def test_json_has_it_all(here: Path) -> None:
    found = read("status", "state")
    assert (found["state"], found["closed"], found["states"]) == ("running", 1, {"paused": 1, "ready": 2})
    assert (found["now"]["round"], found["now"]["reasons"]) == (3, ["pump-3: no examples"])
    assert found["rounds"][0]["scores"] == {"accuracy": 0.75}
    assert [(each["device"], each["part"]) for each in read("list", "state")] == [
        ("pump-1", "counted"),
        ("pump-2", "called"),
        ("pump-3", "declined"),
    ]
    a = read("show", "state", "pump-1")
    assert {key: a[key] for key in read("list", "state")[0]} == read("list", "state")[0]
    assert [(each["round"], each["state"]) for each in a["history"]] == [(1, "closed"), (2, "abandoned"), (3, "open")]


def test_list_and_show(here: Path) -> None:
    rows = [cells(line) for line in run("list", "state").splitlines() if line.startswith("│")]
    assert [(row[0], row[1], row[2], *row[4:]) for row in rows[1:]] == [
        ("pump-1", "ready", "", "counted", "1", "1", "1,000", "0.5", "61.25"),
        ("pump-2", "paused", "82 degrees C, above 80 [guards]", "called", "0", "-", "0", "-", "-"),
        ("pump-3", "ready", "declined round 3: no examples", "declined", "0", "-", "0", "-", "-"),
    ]
    history = [cells(line) for line in run("show", "state", "pump-1").splitlines() if line.startswith("│ ")]
    assert [row[2:] for row in history if row[0] in ("1", "2", "3")] == [
        ["closed", "1,000", "int8", "0.5", "2.5", "61.25"],
        ["abandoned", "2,000", "int8", "0.25", "2.5", "61.25"],
        ["open", "3,000", "int8", "0.1667", "2.5", "61.25"],
    ]
    assert "82 degrees C, above 80 [guards]" in run("show", "state", "pump-2")


def test_nothing_that_a_device_says_steers_the_terminal(here: Path, cloud: Cloud) -> None:
    metrics = {"loss": 0.5}
    cloud.journal.count(Update(3, "pump-2", 1, "\x1b[2J", b"delta", metrics))
    assert "\x1b" not in run("show", "state", "pump-2")
    assert "?[2J" in run("show", "state", "pump-2")


def test_mistakes_are_one_line(here: Path) -> None:
    assert run("show", "state", "x") == "refused: no device 'x'; known are pump-1, pump-2, pump-3"
    assert run("status", "nowhere").startswith("refused: nowhere/journal.sqlite: no such journal; name the state")
    (here / "other.toml").write_text("fleet = 1")
    assert run("status", "other.toml") == "refused: other.toml: fleet must be str, not int"


@pytest.mark.parametrize("verb", ["fleet", "fleet list", "fleet show", "fleet status"])
def test_help_has_examples(verb: str) -> None:
    shown = CliRunner().invoke(app, [*verb.split(), "--help"]).stdout
    assert "examples" in shown
    assert f"fedfleet {verb} " in shown


@contextmanager
def started(*arguments: str, cwd: Path, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "fleet", *arguments]
    with subprocess.Popen(command, cwd=cwd, env=environment(), text=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_mistake_ends_with_2(here: Path) -> None:
    with started("show", "state", "x", cwd=here, stderr=subprocess.PIPE) as process:
        assert process.communicate(timeout=60)[1] == "fedfleet: no device 'x'; known are pump-1, pump-2, pump-3\n"
        assert process.returncode == 2


def test_watching_into_a_file_prints_what_changes(here: Path, cloud: Cloud) -> None:
    with started("status", "state", "--watch", cwd=here, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(3)]
        assert first[0] == "round 1 closed: 1 of 3 reported, 4.5 s; accuracy 0.7500\n"
        assert first[2] == f"round 3: 3 called, 1 reported, 1 declined; running: {WHY}\n"
        cloud.say(Standing("pumps", "fedavg", 9, 4, "no one is there", called=3))
        line = process.stdout.readline()
        assert line == "round 4: 3 called, 0 reported, 0 declined; running: no one is there\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert (process.returncode, rest) == (0, "")


def test_watching_devices_as_json_prints_an_object_a_change(here: Path, cloud: Cloud) -> None:
    with started("show", "state", "pump-2", "--watch", "--json", cwd=here, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "paused"
        cloud.presence.see("pump-2", Status("ready", 4))
        cloud.say(WAITING)
        assert json.loads(process.stdout.readline())["state"] == "ready"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_watching_on_a_terminal_redraws(here: Path, cloud: Cloud) -> None:
    ours, theirs = pty.openpty()
    seen: list[str] = []

    def listen() -> None:
        with suppress(OSError):  # the other end is closed
            while data := os.read(ours, 65536):
                seen.append(data.decode(errors="replace"))

    with started("list", "state", "--watch", cwd=here, stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        listener = Thread(target=listen)
        listener.start()
        assert until(lambda: "82 degrees C" in "".join(seen), 60)
        cloud.presence.see("pump-2", Status("asleep", 4, reason="until 22:00"))
        cloud.say(WAITING)
        assert until(lambda: "until 22:00" in "".join(seen), 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        listener.join(20)
    os.close(ours)
    text = "".join(seen)
    assert re.search(r"\x1b\[\d*A", text)  # the cursor went up to draw over it
    assert text.rindex("\x1b[?25h") > text.rindex("until 22:00")  # and is shown again at the end
