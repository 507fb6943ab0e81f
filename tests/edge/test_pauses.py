"""Held up by its guards, a device waits and says so; what it trains then is what it would have trained."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from federations import Unwilling, never
from handmade import DEVICE, PARTS, TOPICS, Cloud, steps

from fedfleet.cloud.presence import Presence
from fedfleet.edge import guards
from fedfleet.edge.agent import Agent
from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.guards import Guards, Watch
from fedfleet.edge.local import LocalTrainer
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Hold, Stop
from fedfleet.models.compiled import Compiled
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.errors import DataError, FedfleetError, StoreError
from fedfleet.wire.messages import Plan, Status, Task, Update, decode, seen

HOT = Hold("paused", "temperature of 82.0 C is over 80")
NIGHT = Hold("asleep", "it is 12:00, outside of 22:00-06:00")
FULL = Hold("paused", "memory of 12.0 MiB is under 50", memory=True)


class Watched:
    """A device whose guards say what the test wants."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.says = Hold()
        self.closed = 0
        self.fault: FedfleetError | None = None
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None
        _, self.bus = cloud.device(folder)
        self.agent = Agent(DEVICE, TOPICS, self.bus, State(folder), self, lambda: cloud.now, lambda: self.says)

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Stop where that is asked for, as a trainer does between two batches."""
        self.asked += 1
        self.meanwhile()
        stopped = stop()
        if self.fault:
            raise self.fault
        return None if stopped else SeededTrainer(DEVICE).train(task, program, weights, stop)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def device(cloud: Cloud, tmp_path: Path) -> Watched:
    return Watched(cloud, tmp_path)


@pytest.mark.parametrize("hold", [HOT, NIGHT])
def test_who_is_held_up_fetches_nothing_trains_nothing_and_declines_nothing(
    cloud: Cloud, device: Watched, tmp_path: Path, hold: Hold
) -> None:
    device.says = hold
    cloud.task(1)
    steps(device.agent)
    assert cloud.status() == Status(hold.state, 1, reason=hold.reason)
    assert (cloud.heard(), State(tmp_path).round, device.asked) == ([], 0, 0)
    assert list((tmp_path / "blobs").iterdir()) == []
    device.says = Hold()
    steps(device.agent)
    assert cloud.status() == Status("ready", 1)
    assert cloud.heard() == [1]


def test_it_is_said_once_at_each_change_and_with_no_task_at_all(cloud: Cloud, device: Watched) -> None:
    for hold in (Hold(), HOT, NIGHT, Hold()):
        device.says = hold
        sent = device.bus.sent
        steps(device.agent, 1)
        said = device.bus.sent - sent
        device.says = hold._replace(reason=hold.reason.replace("82", "83"))
        steps(device.agent, 5)
        assert cloud.status() == Status(hold.state or "ready", 1, reason=hold.reason)
        assert device.bus.sent - sent == said
    assert said != 0


def test_a_new_link_whose_birth_says_ready_is_told_again(cloud: Cloud, device: Watched) -> None:
    device.says = HOT
    steps(device.agent)
    cloud.bus.publish(TOPICS.status(DEVICE), b"", retain=True)
    steps(device.agent)
    assert TOPICS.status(DEVICE) not in cloud.hub.retained
    device.bus.connections += 1
    steps(device.agent)
    assert cloud.status() == Status("paused", 1, reason=HOT.reason)
    device.says = Hold()
    steps(device.agent)
    cloud.bus.publish(TOPICS.status(DEVICE), b"", retain=True)
    device.bus.connections += 1
    steps(device.agent)
    assert TOPICS.status(DEVICE) not in cloud.hub.retained  # the birth has said it


def test_an_update_that_waits_for_its_receipt_is_sent_while_the_device_is_held_up(
    cloud: Cloud, device: Watched
) -> None:
    cloud.task(1)
    steps(device.agent)
    cloud.heard()
    device.says = NIGHT
    cloud.receipt(1, "missing", missing=(1,))
    steps(device.agent)
    assert [(round_, index) for round_, index, _ in cloud.parts()] == [(1, 1)]


def test_a_pause_in_the_middle_is_said_and_ends_nothing(cloud: Cloud, device: Watched) -> None:
    said: list[Status] = []

    def meanwhile() -> None:
        device.says = HOT
        said.append(cloud.status())

    device.meanwhile = meanwhile
    cloud.task(1)
    steps(device.agent)
    assert said == [Status("ready", 1)]
    assert cloud.heard() == [1]
    assert cloud.status() == Status("paused", 1, reason=HOT.reason)
    assert (device.asked, device.closed) == (1, 0)


def test_memory_that_is_short_ends_training_and_the_child_and_the_round_is_done_again_alike(
    cloud: Cloud, device: Watched, tmp_path: Path
) -> None:
    def meanwhile() -> None:
        device.says = FULL

    device.meanwhile = meanwhile
    task = cloud.task(1)
    steps(device.agent)
    assert (cloud.heard(), State(tmp_path).round, device.asked) == ([], 0, 1)
    assert device.closed > 0
    assert cloud.status() == Status("paused", 1, reason=FULL.reason)
    device.meanwhile, device.says = lambda: None, Hold()
    steps(device.agent)
    assert (device.asked, State(tmp_path).round) == (2, 1)
    update = SeededTrainer(DEVICE).train(task, tmp_path, tmp_path / "blobs" / task.weights.digest, never)
    assert update is not None
    assert cloud.collect(device.agent, 1, PARTS) == update.delta


@pytest.mark.parametrize("fault", [DataError("label 12 is not one"), StoreError("the disk is full")])
def test_who_declines_while_held_up_is_not_ready(cloud: Cloud, device: Watched, fault: FedfleetError) -> None:
    def meanwhile() -> None:
        device.says = HOT

    device.meanwhile, device.fault = meanwhile, fault
    cloud.task(1)
    steps(device.agent)
    assert cloud.status() == Status("paused", 1, declined=1, reason=str(fault))


def test_a_round_does_not_wait_for_who_is_held_up() -> None:
    presence = Presence()
    for state in ("paused", "asleep"):
        assert presence.see("a", Status("ready", 3))
        assert not presence.see("a", Status(state, 3, reason=HOT.reason))
        assert presence.devices == set()
        assert presence.declined == {}


# the training process

Blobs = tuple[Path, Path]


class Pausing:
    """Says wait for a while, again and again, and looks at the child when it has stood still for some time."""

    def __init__(self, child: Callable[[], int]) -> None:
        self.child = child
        self.calls = 0
        self.still: list[bool] = []

    def __call__(self) -> bool:
        self.calls += 1
        phase = self.calls % 10
        if phase == 5:
            self.before = self.computed()
        elif phase == 9:
            self.still.append(self.computed() == self.before)
        return phase >= 3

    def computed(self) -> str:
        """Clock ticks that the child has computed for so far (proc(5): utime and stime)."""
        fields = Path(f"/proc/{self.child()}/stat").read_text().rpartition(")")[2].split()
        return " ".join(fields[11:13])


@pytest.mark.usefixtures("rooms")
def test_a_child_that_is_paused_again_and_again_computes_nothing_meanwhile_and_comes_to_the_same_bits(
    task: Task, blobs: Blobs, stored: Path, tmp_path: Path
) -> None:
    long = replace(task, plan=Plan(steps=6_000, learning_rate=0.001))
    pausing = Pausing(lambda: child.process)
    child = ChildTrainer(DEVICE, stored, tmp_path / "trainer.log", memory=2**30, wait=pausing)
    child.train(task, *blobs, never)  # so that it runs by now
    update = child.train(long, *blobs, never)
    began = time.monotonic()
    local = LocalTrainer(DEVICE, stored).train(long, *blobs, never)
    took = time.monotonic() - began
    assert update is not None and local is not None
    assert replace(update, metrics={}) == replace(local, metrics={})
    assert pausing.still.count(True) > len(pausing.still) / 2  # a busy machine may be late once
    assert update.metrics["seconds"] < 20 * took
    child.close()


@pytest.mark.usefixtures("rooms")
def test_a_paused_child_is_stopped_for_a_newer_task_and_does_the_next(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path
) -> None:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 20

    child._paused = lambda: True
    began = time.monotonic()
    assert child.train(replace(task, plan=Plan(steps=10_000_000, learning_rate=0.001)), *blobs, stop) is None
    assert time.monotonic() - began < 8  # well below the patience after which it is ended
    before = child.process
    child._paused = lambda: False
    update, local = (trainer.train(task, *blobs, never) for trainer in (child, LocalTrainer(DEVICE, stored)))
    assert update is not None and local is not None
    assert (update.delta, child.process) == (local.delta, before)


@pytest.mark.usefixtures("rooms")
def test_a_paused_child_ends_with_its_parent(task: Task, blobs: Blobs, stored: Path, tmp_path: Path) -> None:
    """A process that stood still by a signal would stay for ever."""
    code = f"""if True:
    from fedfleet.edge.child import ChildTrainer
    from fedfleet.wire.messages import Blob, Plan, Task
    import pathlib, sys
    program, weights = {str(blobs[0])!r}, {str(blobs[1])!r}
    names = [Blob.of(pathlib.Path(path).read_bytes()) for path in (program, weights)]
    task = Task(3, *names, Plan(steps=10_000_000, learning_rate=0.001))
    child = ChildTrainer("d1", pathlib.Path({str(stored)!r}), pathlib.Path({str(tmp_path / "log")!r}), 2**30, lambda: True)
    asked = []
    def stop():
        asked.append(1)
        if len(asked) == 20:
            print(child.process, flush=True)
        return False
    child.train(task, pathlib.Path(program), pathlib.Path(weights), stop)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        assert Path(f"/proc/{number}").exists()
        watched = os.pidfd_open(number)
        parent.kill()
    assert select.select([watched], [], [], 10)[0]
    os.close(watched)


@pytest.mark.usefixtures("rooms")
def test_its_owner_needs_the_board_in_the_middle_of_a_round(
    cloud: Cloud, small: Compiled, task: Task, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "PERIOD", 0.02)
    state = State(tmp_path / "state")
    state.begin()
    watch, inhibit, asked = Watch(Guards(), state.folder), state.folder / "inhibit", []

    def hold() -> Hold:
        asked.append(child.process)
        if child.process and asked.count(child.process) == 10:
            inhibit.touch()
        elif asked.count(child.process) == 25:
            inhibit.unlink()
        return watch()

    child = ChildTrainer(DEVICE, stored, tmp_path / "log", 2**30, lambda: bool(hold().state))
    watcher = cloud.hub.connect()
    watcher.subscribe(TOPICS.status(DEVICE))
    agent = Agent(DEVICE, TOPICS, cloud.hub.connect(), state, child, lambda: cloud.now, hold)
    program, weights = cloud.blob(small.program), cloud.blob(small.weights.astype("<f4").tobytes())
    told = cloud.task(1, program=program, weights=weights, plan=Plan(steps=12_000, learning_rate=0.001))
    steps(agent, 8)
    delta = cloud.collect(agent, 1, (0, 1))
    agent.close()
    said = [decode(Status, payload) for _, payload in watcher.deliveries(0)]
    assert [status.state for status in said] == ["paused", "ready", "away"]
    assert said[0].reason == seen(f"{inhibit} is there")
    paths = [state.folder / "blobs" / blob.digest for blob in (program, weights)]
    local = LocalTrainer(DEVICE, stored).train(told, paths[0], paths[1], never)
    assert local is not None
    assert delta == local.delta


def test_a_time_budget_does_not_run_while_training_is_paused(task: Task, blobs: Blobs, stored: Path) -> None:
    plan = Plan(steps=30, learning_rate=0.001, time_budget=1.0)

    def slow() -> bool:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass
        return False

    update = LocalTrainer(DEVICE, stored).train(replace(task, plan=plan), *blobs, slow)
    assert update is not None
    assert update.metrics["steps"] == 30
    assert update.metrics["seconds"] < 1


def test_nobody_is_asked_to_train_twice(cloud: Cloud, tmp_path: Path) -> None:
    unwilling = Unwilling(AssertionError("trained all the same"))
    _, bus = cloud.device(tmp_path, unwilling)
    agent = Agent(DEVICE, TOPICS, bus, State(tmp_path), unwilling, lambda: cloud.now, lambda: HOT)
    cloud.task(1)
    steps(agent)
    assert unwilling.asked == []
