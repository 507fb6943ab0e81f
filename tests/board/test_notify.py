"""systemd is told the truth: ready when it is, and alive only while work goes on."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import KINDS
from notified import Listener, listening
from processes import children, until

from fedfleet.edge.board import computed
from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.data import Store
from fedfleet.edge.notify import PATIENCE, Pulse, period, tell
from fedfleet.edge.state import State
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Plan, Task, encode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TOPICS = Topics("mill")
FED = "WATCHDOG=1"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Who has started us, and waits 2 s for a sign of life."""
    with listening(tmp_path) as found:
        monkeypatch.setenv("NOTIFY_SOCKET", found.address)
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield found


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that computes for ever."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("abstract", [False, True])
def test_what_is_told_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    with listening(tmp_path, abstract) as systemd:
        monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
        tell("READY=1", "STATUS=device d1")
        assert systemd.heard(5.0) == ["READY=1", "STATUS=device d1"]


@pytest.mark.parametrize("address", ["", "/no/such/socket", "vsock:2:1234"])
def test_nobody_listens_and_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    tell("READY=1")


def test_one_who_does_not_read_holds_nothing_up(systemd: Listener) -> None:
    for _ in range(5000):
        tell("READY=1")  # more than a socket keeps
    assert systemd.heard() == ["READY=1"]


@pytest.mark.parametrize(
    ("wait", "process", "seconds"),
    [("", "", math.inf), ("rubbish", "", math.inf), ("180000000", "", 45.0), ("180000000", "1", math.inf)],
)
def test_how_often_the_watchdog_is_fed(
    monkeypatch: pytest.MonkeyPatch, wait: str, process: str, seconds: float
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", wait)
    monkeypatch.setenv("WATCHDOG_PID", process)
    assert period() == seconds
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert period() == (45.0 if wait.isdecimal() else math.inf)


def test_it_is_ready_once(systemd: Listener) -> None:
    pulse = Pulse(lambda: False)
    pulse.ready("device d1")
    pulse.ready("device d1")
    assert systemd.heard(5.0) == ["READY=1", "STATUS=device d1"]
    assert systemd.heard() == []


def test_a_board_whose_broker_is_away_has_started_after_a_minute(systemd: Listener) -> None:
    clock = Clock()
    pulse = Pulse(lambda: False, clock)
    clock.now += PATIENCE - 1
    assert pulse.ends() is False
    assert systemd.heard(5.0) == [FED, "STATUS=waiting"]
    clock.now += 2
    pulse.ends()
    assert systemd.heard(5.0)[0] == "READY=1"


def test_it_is_fed_as_often_as_needed_and_no_more(systemd: Listener) -> None:
    clock = Clock()
    pulse = Pulse(lambda: True, clock)
    for _ in range(100):
        assert pulse.ends() is True
    clock.now += 0.5
    pulse.ends()
    assert [systemd.heard()[0], systemd.heard()[0], systemd.heard()] == [FED, FED, []]


def test_a_training_process_must_compute(systemd: Listener, busy: subprocess.Popen[bytes]) -> None:
    clock = Clock()
    pulse = Pulse(lambda: False, clock)

    def fed(process: int) -> bool:
        clock.now += 1
        pulse.ends(process)
        return FED in systemd.heard()

    assert until(lambda: fed(busy.pid)) and until(lambda: fed(busy.pid))
    busy.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, busy.pid, os.WSTOPPED)
    fed(busy.pid)  # what it had computed until it was stopped
    assert not any(fed(busy.pid) for _ in range(100))
    assert fed(0)  # the round is over, or the guards hold it: nobody waits for that process
    assert fed(busy.pid) and not fed(busy.pid)
    busy.send_signal(signal.SIGCONT)
    assert until(lambda: fed(busy.pid))


def test_what_a_process_has_computed(busy: subprocess.Popen[bytes]) -> None:
    assert until(lambda: computed(Path("/"), busy.pid) > 10)
    assert computed(Path("/"), 0) == 0


def test_a_trainer_says_when_its_process_is_to_compute(
    tmp_path: Path, stored: Path, blobs: tuple[Path, Path], small: Compiled
) -> None:
    held = [False]
    seen: list[tuple[bool, bool]] = []
    trainer = ChildTrainer("d1", stored, tmp_path / "log", wait=lambda: held[0])
    task = Task(
        1, Blob.of(small.program), Blob.of(blobs[1].read_bytes()), Plan(epochs=1, learning_rate=0.01, steps=10**7)
    )

    def stop() -> bool:
        seen.append((held[0], bool(trainer.at_work)))
        held[0] = 2 <= len(seen) < 5
        return len(seen) == 8

    assert trainer.at_work == 0
    assert trainer.train(task, *blobs, stop) is None
    assert trainer.process and trainer.at_work == 0
    trainer.close()
    assert [at_work for _, at_work in seen] == [True, True, False, False, False, True, True, True]


@pytest.fixture
def endless(tmp_path: Path, small: Compiled, examples: Examples, rooms: Callable[..., None]) -> Iterator[Path]:
    """The settings of a device that finds a training of ten million steps waiting for it."""
    state, weights = State(tmp_path / "state"), small.weights.astype("<f4").tobytes()
    for data in (small.program, weights):
        (state.blobs / Blob.of(data).digest).write_bytes(data)
    Store.open(state.examples).append(examples)
    task = Task(
        1, Blob.of(small.program), Blob.of(weights), Plan(epochs=1, learning_rate=0.01, steps=10**7), deadline=600
    )
    with running(KINDS[0], tmp_path) as (broker, _):
        bus = MqttBus(broker, "mill-cloud")
        bus.publish(TOPICS.task, encode(task), retain=True)
        bus.close()
        yield written(tmp_path, broker)


def written(folder: Path, broker: Broker) -> Path:
    path = folder / "agent.toml"
    path.write_text(f'device = "d1"\nfleet = "mill"\n[broker]\nport = {broker.port}\n')
    return path


@pytest.fixture
def agent(endless: Path, systemd: Listener) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-m", "fedfleet.edge", "--settings", str(endless)]) as process:
        yield process
        process.kill()


def test_training_feeds_and_a_stopped_worker_does_not(systemd: Listener, agent: subprocess.Popen[bytes]) -> None:
    assert systemd.until("READY=1")
    assert systemd.until("STATUS=training")
    assert systemd.until(FED) and systemd.until(FED) and systemd.until(FED)
    (worker,) = children(agent.pid)
    os.kill(worker, signal.SIGSTOP)
    systemd.silent(FED, 1.0)  # what it had computed until then is told once
    assert systemd.silent(FED, 4.0)  # twice what systemd waits
    os.kill(worker, signal.SIGCONT)
    assert systemd.until("STATUS=training")
    agent.terminate()
    assert systemd.until("STOPPING=1")
    assert agent.wait(20) == 0


def test_a_loop_that_hangs_does_not_feed(systemd: Listener, endless: Path) -> None:
    log = State(endless.parent / "state").log
    log.unlink(missing_ok=True)
    os.mkfifo(log)  # to open it for writing is to wait until somebody reads
    with subprocess.Popen([sys.executable, "-m", "fedfleet.edge", "--settings", str(endless)]) as agent:
        assert systemd.until("READY=1")
        systemd.silent(FED, 1.0)  # the last before it hangs
        assert systemd.silent(FED, 4.0)
        with log.open("rb"):
            assert systemd.until("STATUS=training")
        agent.kill()
