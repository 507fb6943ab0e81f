"""The collector: what it does by itself, as a process, and kept by a real agent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from brokers import KINDS

from fedfleet.edge.collect import PERIOD, TELL, Collector, alone, sources
from fedfleet.edge.data import Store
from fedfleet.edge.settings import AgentSettings, load_agent
from fedfleet.sim.brokers import running
from fedfleet.wire.errors import BusDown, DataError, FedfleetError, SettingsError, StoreError
from fedfleet.wire.examples import Examples
from fedfleet.wire.settings import Broker

HEAD = 'device = "d1"\nfleet = "mill"\n'
FOLDER = '[source.folder]\npath = "inbox"\nlabel = "failure"\nquiet = 0.1\n'
DAY = 86400.0
pytestmark = pytest.mark.usefixtures("rooms")


class Told:
    """A source that says what it was told to say."""

    def __init__(self, *answers: FedfleetError | int) -> None:
        self.answers = list(answers)
        self.asked = 0

    def poll(self, store: Store) -> int:
        """Append an example with the number of this call as its label, or raise."""
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, FedfleetError):
            raise answer
        store.append(Examples(np.ones((1, 2), np.float32), np.array([self.asked], np.int32)))
        return 1


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_trouble_of_one_source_is_told_once_a_minute_and_keeps_no_other_from_its_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, well = Clock(), Told(1)
    sick = [Told(error) for error in (BusDown("no broker"), DataError("no class"), StoreError("no room"))]
    collector = Collector(AgentSettings("d1", "mill"), tmp_path, [*sick, well], clock)
    for _ in range(int(2 * TELL)):
        collector.step()
        clock.now += PERIOD
    assert [source.asked for source in (*sick, well)] == [120] * 4
    assert [record.getMessage() for record in caplog.records] == ["no broker", "no class", "no room"] * 2


def test_a_disk_that_refuses_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, source = Clock(), Told(1)
    collector = Collector(AgentSettings("d1", "mill"), tmp_path, [source], clock)
    (tmp_path / "examples").touch()
    for _ in range(3):
        collector.step()
    assert source.asked == 0
    assert len(caplog.records) == 1
    (tmp_path / "examples").unlink()
    collector.step()
    assert source.asked == 1
    assert len(Store.open(tmp_path / "examples")) == 1


def test_what_is_too_old_goes_once_an_hour_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    collector = Collector(AgentSettings("d1", "mill", max_example_age=2.0), tmp_path, [Told(1)], clock)
    collector.step()
    (segment,) = (tmp_path / "examples").glob("*.segment")
    os.utime(segment, (time.time() - 1 * DAY,) * 2)
    clock.now += 3600
    collector.step()
    os.utime(segment, (time.time() - 3 * DAY,) * 2)
    clock.now += 3599
    collector.step()
    assert segment.exists()
    clock.now += 1
    collector.step()
    assert not segment.exists()
    assert [record.getMessage() for record in caplog.records] == ["1 examples older than 2 days dropped"]


def test_it_polls_as_long_as_it_may_and_once_without_a_source(tmp_path: Path) -> None:
    source, waits = Told(1), [True, True, False]
    Collector(AgentSettings("d1", "mill"), tmp_path, [source]).run(lambda seconds: seconds == PERIOD and waits.pop(0))
    assert source.asked == 3

    def never(_: float) -> bool:
        raise AssertionError("waited for nothing")

    Collector(AgentSettings("d1", "mill"), tmp_path, []).run(never)


def test_there_is_one_collector(tmp_path: Path) -> None:
    path = tmp_path / "state" / "collect.lock"
    with alone(path):
        with pytest.raises(StoreError, match="another collector is at work"):
            with alone(path):
                raise AssertionError("there are two")
    with alone(path):
        pass
    with pytest.raises(StoreError, match="cannot be held: Is a directory"):
        with alone(tmp_path / "state"):
            pass


def written(folder: Path, more: str) -> Path:
    (folder / "agent.toml").write_text(HEAD + more)
    return folder / "agent.toml"


def test_the_settings_name_the_sources(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text("def read(): pass\n")
    more = FOLDER + '[source.readings]\ntopic = "a/+"\nfields = ["b"]\n[source.python]\ncallable = "probe:read"\n'
    settings, folder = load_agent(written(tmp_path, more))
    folder.mkdir()
    before = list(sys.path)
    found = sources(settings, tmp_path, folder)
    sys.path[:] = before
    assert [type(source).__name__ for source in found] == ["FolderSource", "ReadingsSource", "PythonSource"]
    assert settings.collects
    assert not load_agent(written(tmp_path, ""))[0].collects
    assert load_agent(written(tmp_path, "max_example_age = 30"))[0].collects


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("max_example_age = -1", "max_example_age must be 0 or a number of days"),
        ("[source.foldr]", "unknown setting source.foldr; known here: folder, readings, python"),
        ("[source.folder]", "source.folder.path is missing"),
        ('[source.folder]\npath = ""', "source.folder: path must name a folder"),
        ('[source.folder]\npath = "a"\ntask = "x"', 'source.folder: task must be "regression" or left out'),
        ('[source.folder]\npath = "a"\nquiet = 0', "source.folder: quiet must be above 0"),
        ('[source.readings]\ntopic = "a/#"\nfields = ["b"]', "source.readings: topic must name a topic"),
        ('[source.readings]\ntopic = "a"\nfields = []', "source.readings: fields must name at least one field"),
        ('[source.readings]\ntopic = "a"\nfields = ["b"]\nwindow = 0', "source.readings: window must be at least 1"),
        ('[source.readings]\ntopic = "a"\nfields = ["b"]\nwindow = 4\nstride = 5', "source.readings: stride must be 0 to"),
        ('[source.readings]\ntopic = "a"\nfields = ["b"]\nlabel_topic = "l/+"', "source.readings: label_topic must be one"),
        ('[source.readings]\ntopic = "a"\nfields = ["b"]\nlabel_field = "l"', "source.readings: label_field needs a label"),
        ('[source.readings]\ntopic = "a"\nfields = ["b"]\nmax_gap = 0', "source.readings: max_gap must be above 0"),
        ('[source.readings]\ntopic = "a"\nfields = ["b"]\n[source.readings.broker]\nport = 0', "source.readings.broker: port must be"),
        ('[source.python]\ncallable = "read"', "source.python: callable must be like module:function"),
        ('[source.python]\ncallable = "a:b"\nevery = 0', "source.python: every must be above 0"),
    ],
)  # fmt: skip
def test_mistakes_in_the_settings_name_their_key(tmp_path: Path, more: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_agent(written(tmp_path, more))
    assert str(caught.value).startswith(f"{tmp_path}/agent.toml: {reason}")


# the process


def awaited(folder: Path, count: int) -> list[int]:
    """The labels in a store, once there are `count`."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        store = Store.open(folder / "state" / "examples")
        if len(store) >= count:
            return store.arrays().y.tolist()  # type: ignore[no-any-return]
    raise AssertionError(f"there are {len(store)} examples")


def test_the_process_collects_until_its_stdin_ends(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.csv").write_text("a,failure\n1,4\n2,5\n")
    command = [sys.executable, "-m", "fedfleet.edge.collect", str(written(tmp_path, FOLDER))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert awaited(tmp_path, 2) == [4, 5]
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said.splitlines()[-1].partition("INFO ")[2]) == (
        0,
        f"{tmp_path}/inbox/a.csv: 2 examples",
    )


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("max_example_age = 3", 0, ""),
        (
            '[source.python]\ncallable = "no_such_probe:read"',
            2,
            "source.python.callable: No module named 'no_such_probe'",
        ),
        ("[source", 2, "not TOML"),
    ],
)
def test_the_process_ends_when_there_is_nothing_to_wait_for(tmp_path: Path, more: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "fedfleet.edge.collect", str(written(tmp_path, more))]
    found = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == code
    assert said in found.stderr and len(found.stderr.splitlines()) == bool(said)


def test_faults_of_the_owners_function_end_it_with_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text("def read(): return 1 / 0\n")
    path = written(tmp_path, '[source.python]\ncallable = "probe:read"\n')
    command = [sys.executable, "-m", "fedfleet.edge.collect", str(path)]
    found = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert "def read(): return 1 / 0" in found.stderr


# kept by an agent


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(KINDS[0], tmp_path_factory.mktemp("broker")) as (found, _):
        yield found


def collector(path: Path) -> int:
    """The process id of the collector with these settings, once there is one."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"fedfleet.edge.collect" in words and os.fsencode(path) in words:
                return int(process.name)
    raise AssertionError("there is no collector")


@contextmanager
def started(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "fedfleet.edge", "--settings", str(path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def gone(pid: int) -> bool:
    """Whether a process ends within 10 s."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    found = bool(select.select([watched], [], [], 10)[0])
    os.close(watched)
    return found


def test_an_agent_keeps_its_collector_and_ends_it(tmp_path: Path, broker: Broker) -> None:
    (tmp_path / "inbox").mkdir()
    path = written(tmp_path, f"{FOLDER}[broker]\nport = {broker.port}\n")
    with started(path) as agent:
        (tmp_path / "inbox" / "a.csv").write_text("a,failure\n1,4\n")
        assert awaited(tmp_path, 1) == [4]
        first = collector(path)
        os.kill(first, signal.SIGKILL)
        (tmp_path / "inbox" / "b.csv").write_text("a,failure\n1,5\n")
        assert awaited(tmp_path, 2) == [4, 5]
        second = collector(path)
        assert second != first
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(15) == 0
        assert gone(second)


def test_a_collector_ends_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.csv").write_text("a,failure\n1,4\n")
    path = written(tmp_path, f"{FOLDER}[broker]\nport = 9\n")  # examples come in while the fleet's broker is away
    with started(path) as agent:
        assert awaited(tmp_path, 1) == [4]
        pid = collector(path)
        agent.kill()
        assert gone(pid)
