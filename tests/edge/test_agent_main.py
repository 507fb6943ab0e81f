"""`fedfleet-agent` as its owner meets it: a process with a command line, signals and a real broker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brokers import KINDS

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.__main__ import _opened
from fedfleet.edge.board import ability
from fedfleet.edge.data import Store
from fedfleet.edge.ota.trial import version
from fedfleet.edge.settings import AgentSettings
from fedfleet.edge.state import State
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.bus import Bus
from fedfleet.wire.errors import FrameError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan, Status, Task, decode, encode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

AGENT = [sys.executable, "-m", "fedfleet.edge"]
TOPICS = Topics("mill")
VERSION = version(None)
pytestmark = pytest.mark.usefixtures("rooms")


def settings(folder: Path, more: str = "") -> Path:
    (folder / "agent.toml").write_text(f'device = "d1"\nfleet = "mill"\n{more}')
    return folder / "agent.toml"


def agent(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AGENT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def started(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A running agent, its standard error to be read; killed at the end if it has not ended."""
    with subprocess.Popen([*AGENT, "--settings", str(path)], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Return the next line of the agent's log that has `text` in it."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the agent ended without saying {text!r}")


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(15)


def test_help_has_examples() -> None:
    found = agent("--help")
    assert found.returncode == 0
    assert "fedfleet-agent --settings agent.toml import 'data.csv?label=failure'" in found.stdout
    assert "--settings FILE" in found.stdout


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('[broker]\nhots = "x"', "unknown setting broker.hots; known here: host, port, keepalive"),
        ("max_example_bytes = 3.5", "max_example_bytes must be int, not float"),
        ("[broker", "not TOML"),
        ('[broker]\nusername = "d1"\npassword_env = "FEDFLEET_NO_SUCH"', "names FEDFLEET_NO_SUCH, which is not set"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path, more: str, reason: str) -> None:
    found = agent("--settings", settings(tmp_path, more))
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fedfleet-agent: ")
    assert reason in lines[0]


def test_missing_files_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    found = agent("--settings", tmp_path / "absent.toml")
    assert (found.returncode, found.stderr) == (2, f"fedfleet-agent: {tmp_path}/absent.toml: no such settings file\n")
    found = agent("--settings", settings(tmp_path), "import", tmp_path / "absent.npz")
    assert found.returncode == 2
    assert found.stderr.startswith(f"fedfleet-agent: {tmp_path}/absent.npz cannot be read")
    assert len(found.stderr.splitlines()) == 1


def test_examples_are_imported_from_npz_and_csv(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.array([0, 1, 2]))
    (tmp_path / "b.csv").write_text("temp,failure,load\n1.5,1,2.5\n3,0,4\n")
    path = settings(tmp_path)
    found = agent("--settings", path, "import", tmp_path / "a.npz")
    assert (found.returncode, found.stdout) == (0, "3 examples imported; d1 holds 3 now\n")
    found = agent("--settings", path, "import", f"{tmp_path}/b.csv?label=failure")
    assert (found.returncode, found.stdout) == (0, "2 examples imported; d1 holds 5 now\n")
    held = Store.open(tmp_path / "state" / "examples").arrays()
    assert held.x.tolist() == [[1, 1], [1, 1], [1, 1], [1.5, 2.5], [3, 4]]
    assert held.y.tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("rows", "label", "reason"),
    [
        ("a,b\n1,0\n", "failure", "has no column 'failure': its columns are a, b"),
        ("a,b\n1,0\n", "", "needs its label column named"),
        ("a,b\n1,0\nnan,1\n", "b", "line 3, column 'a': nan is not finite"),
        ("a,b\n1,0\n2,1e12\n", "b", "column 'b': 1000000000000 is no class label"),
        ("a,b\n1,0\n2,1e40\n", "b", "line 3, column 'b': 1e+40 is not finite in 32 bits"),
        ("a,b\n1,0\nx,1\n", "b", "line 3, column 'a': 'x' is not a number"),
    ],
)
def test_examples_that_cannot_be_trained_on_are_one_line(tmp_path: Path, rows: str, label: str, reason: str) -> None:
    (tmp_path / "data.csv").write_text(rows)
    found = agent(
        "--settings", settings(tmp_path), "import", f"{tmp_path}/data.csv" + (f"?label={label}" if label else "")
    )
    assert found.returncode == 2
    assert reason in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert len(Store.open(tmp_path / "state" / "examples")) == 0


def test_npz_labels_out_of_range_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 2)), y=np.array([0, -1]))
    found = agent("--settings", settings(tmp_path), "import", tmp_path / "a.npz")
    assert found.returncode == 2
    assert "y goes from -1 to 0: labels start at 0" in found.stderr


def test_damaged_state_is_one_line_and_the_agent_stays_up(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "memory.json").write_text("{")
    with started(settings(tmp_path)) as process:
        line = line_with(process, "")
        assert "state/memory.json is damaged" in line and line.endswith("trying again in 60 s\n")
        assert ended(process) == 0


class Mended(threading.Event):
    """Whoever waits finds the disk mended afterwards."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        if len(self.waits) == 2:
            self.path.unlink()
        return self.is_set()


def test_a_disk_that_refuses_at_the_start_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").touch()  # so that no folder can be made
    mended = Mended(tmp_path / "state")
    state = _opened(AgentSettings("d1", "mill"), tmp_path / "state", mended)
    assert state is not None
    assert (state.boot, mended.waits) == (1, [60.0, 60.0])
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/state cannot be made: Not a directory; give the agent a folder it may write; trying again in 60 s"
    ] * 2


def test_a_start_that_is_ended_while_it_waits_for_the_disk(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    stopping = threading.Event()
    stopping.set()
    assert _opened(AgentSettings("d1", "mill"), tmp_path / "state", stopping) is None


def test_a_broker_that_is_not_there_is_tried_again_until_sigterm(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody can be there
        port = taken.getsockname()[1]
        with started(settings(tmp_path, f"[broker]\nport = {port}\n")) as process:
            first = line_with(process, "no broker")
            assert f"no broker at 127.0.0.1:{port}: Connection refused; start one or correct host and port; " in first
            assert 0.0 <= float(first.split("trying again in ")[1].split(" s")[0]) <= 4.0
            assert "trying again in" in line_with(process, "no broker")
            assert ended(process) == 0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(KINDS[0], tmp_path_factory.mktemp("broker")) as (found, _):
        yield found


def awaited(bus: Bus, state: str, seconds: float = 30.0) -> Status:
    """Return the first status of the device that says `state`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _, payload in bus.deliveries(0.1):
            try:
                status = decode(Status, payload)
            except FrameError:
                continue
            if status.state == state:
                return status
    raise AssertionError(f"the device did not say {state!r}")


def test_sigterm_ends_it_with_exit_code_0_and_a_goodbye(tmp_path: Path, broker: Broker) -> None:
    watcher = MqttBus(broker, "watcher")
    watcher.subscribe(TOPICS.status("d1"))
    able = ability(Path("/"), ("line-3",))
    for boot in (1, 2):
        with started(settings(tmp_path, f'tags = ["line-3"]\n[broker]\nport = {broker.port}\n')) as process:
            assert awaited(watcher, "ready") == Status("ready", boot, ability=able, version=VERSION)
            line_with(process, "device d1 of fleet mill is ready")
            assert ended(process) == 0
        assert awaited(watcher, "away") == Status("away", boot, ability=able, version=VERSION)
    watcher.close()


def test_who_needs_the_board_is_given_it(tmp_path: Path, broker: Broker) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "inhibit").touch()
    watcher = MqttBus(broker, "watcher")
    watcher.subscribe(TOPICS.status("d1"))
    with started(settings(tmp_path, f"[broker]\nport = {broker.port}\n")) as process:
        assert awaited(watcher, "paused").reason.endswith("state/inhibit is there")
        assert "paused: " in line_with(process, "inhibit is there")
        (tmp_path / "state" / "inhibit").unlink()
        assert awaited(watcher, "ready") == Status("ready", 1, ability=ability(Path("/"), ()), version=VERSION)
        assert ended(process) == 0
    watcher.publish(TOPICS.status("d1"), b"", retain=True)
    watcher.close()


def test_kill_9_is_told_by_the_broker(tmp_path: Path, broker: Broker) -> None:
    watcher = MqttBus(broker, "watcher")
    watcher.subscribe(TOPICS.status("d1"))
    with started(settings(tmp_path, f"[broker]\nport = {broker.port}\n")) as process:
        line_with(process, "is ready")
        os.kill(process.pid, signal.SIGKILL)
    assert awaited(watcher, "lost").boot == 1
    watcher.publish(TOPICS.status("d1"), b"", retain=True)
    watcher.close()


def test_a_real_agent_does_a_round_and_is_ended_in_the_middle_of_the_next(
    tmp_path: Path, broker: Broker, small: Compiled, examples: Examples, rooms: Callable[..., None]
) -> None:
    np.savez(tmp_path / "data.npz", x=examples.x, y=examples.y)
    path = settings(tmp_path, f"[broker]\nport = {broker.port}\n")
    assert agent("--settings", path, "import", tmp_path / "data.npz").returncode == 0
    records: list[RoundRecord] = []
    plan, rounds = Plan(epochs=2, learning_rate=0.01), Rounds(total=1, deadline=60.0)
    federation = Federation(small.program, small.weights, strategy("fedavg"), plan, rounds)
    journal, bus = Journal(tmp_path / "cloud"), MqttBus(broker, "mill-cloud")
    cloud = Aggregator(federation, TOPICS, bus, journal, time.monotonic, report=records.append)
    with started(path) as process:
        while not cloud.done:
            cloud.step(0.1)
            assert process.poll() is None
        assert (records[0].reported, records[0].examples) == (1, 20)
        assert records[0].bytes_down > len(small.program) + 4 * small.weights.size
        assert not np.array_equal(cloud.weights, small.weights)
        line_with(process, "round 1: called")
        task = journal.ended_task()
        assert task is not None
        endless = replace(task, round=2, plan=replace(plan, steps=10_000_000))
        bus.publish(TOPICS.task, encode(endless), retain=True)
        line_with(process, "round 2: called")
        assert ended(process) == 0
    assert State(tmp_path / "state").round == 1  # the second one will be done again
    for topic in (TOPICS.task, TOPICS.status("d1")):
        bus.publish(topic, b"", retain=True)
    bus.close()
    journal.close()
    assert isinstance(endless, Task)
