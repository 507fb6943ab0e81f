"""What interrupts an agent's work, and what it makes of tasks and blobs that lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from federations import TOPICS, Unwilling
from handmade import DEVICE, PROGRAM, Cloud, P, steps
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.edge.state import State
from fedfleet.edge.trainer import Stop
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.chunks import chunk_name
from fedfleet.wire.errors import DataError, ProgramError
from fedfleet.wire.messages import Blob, Patch, Status, Task, Update, encode


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


class Slow:
    """Trains until it is told to stop, while `meanwhile` happens."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.meanwhile = meanwhile
        self.stopped: list[int] = []

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Never comes to an end by itself."""
        assert not stop()
        self.meanwhile()
        if not stop():
            return SeededTrainer(DEVICE).train(task, program, weights, stop)
        self.stopped.append(task.round)
        return None

    def close(self) -> None: ...


def test_a_newer_task_stops_training_in_the_middle(cloud: Cloud, tmp_path: Path) -> None:
    newer = [2]

    def meanwhile() -> None:
        if newer:
            cloud.task(newer.pop())

    slow = Slow(meanwhile)
    agent, _ = cloud.device(tmp_path, slow)
    cloud.task(1)
    steps(agent, 12)
    assert slow.stopped == [1]
    assert cloud.heard() == [2]
    assert State(tmp_path).round == 2


def test_the_cleared_task_ends_work_and_the_same_one_brings_it_back(cloud: Cloud, tmp_path: Path) -> None:
    slow = Slow(lambda: cloud.bus.publish(TOPICS.task, b"", retain=True))
    agent, _ = cloud.device(tmp_path, slow)
    task = cloud.task(1)
    steps(agent, 12)
    assert slow.stopped == [1]
    assert cloud.heard() == []
    assert State(tmp_path).round == 0
    slow.meanwhile = lambda: None
    cloud.bus.publish(TOPICS.task, encode(task), retain=True)
    steps(agent)
    assert cloud.heard() == [1]


def test_who_ends_the_agent_ends_training_and_the_round_is_not_given_up(cloud: Cloud, tmp_path: Path) -> None:
    ended: list[bool] = []
    slow = Slow(lambda: ended.append(True))
    agent, _ = cloud.device(tmp_path, slow)
    cloud.task(1)
    agent.run(lambda: bool(ended))
    assert slow.stopped == [1]
    assert (cloud.status(), State(tmp_path).round) == (Status("away", 1), 0)
    ended.clear()

    class Killed(Unwilling):
        def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
            ended.append(True)  # the signal that ends us has reached the training process first
            return super().train(task, program, weights, stop)

    agent, _ = cloud.device(tmp_path, Killed(ProgramError("ended by signal 15")))
    agent.run(lambda: bool(ended))
    assert (cloud.status(), State(tmp_path).round) == (Status("away", 2), 0)


def test_an_older_task_is_ignored(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(4)
    steps(agent)
    cloud.heard()
    cloud.task(3)
    cloud.task(4)
    steps(agent)
    assert cloud.heard() == []
    assert State(tmp_path).spool.offer(4) is not None


def test_a_trainer_that_cannot_has_the_round_declined_with_its_reason(cloud: Cloud, tmp_path: Path) -> None:
    unwilling = Unwilling(DataError("label 12\nis not one"))
    agent, _ = cloud.device(tmp_path, unwilling)
    cloud.task(1)
    steps(agent)
    assert unwilling.asked == [1]
    assert cloud.status() == Status("ready", 1, declined=1, reason="label 12 is not one")
    cloud.task(2)
    steps(agent)
    assert unwilling.asked == [1, 2]
    assert cloud.status().declined == 2


@pytest.mark.parametrize("which", ["program", "weights"])
def test_a_rotten_blob_is_fetched_anew(cloud: Cloud, tmp_path: Path, which: str) -> None:
    class Checking:
        asked = 0

        def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
            self.asked += 1
            path, blob = (program, task.program) if which == "program" else (weights, task.weights)
            if self.asked == 1:
                path.write_bytes(os.urandom(blob.size))
                raise ProgramError("other bytes than its name says")
            return SeededTrainer(DEVICE).train(task, program, weights, stop)

        def close(self) -> None: ...

    checking = Checking()
    agent, _ = cloud.device(tmp_path, checking)
    cloud.task(1)
    steps(agent, 10)
    assert checking.asked == 2
    assert cloud.heard() == [1]
    assert cloud.status() == Status("ready", 1)


@pytest.mark.parametrize(
    "lie",
    [
        {"weights": Blob("e" * 64, 4 * P)},
        {"program": Blob("e" * 64, 1)},
        {"program": Blob(Blob.of(PROGRAM).digest, 1)},
        {"program": Blob(Blob.of(PROGRAM).digest, 2**28)},
        {"program": Blob(Blob.of(PROGRAM).digest, len(PROGRAM) + 1)},
    ],
)
def test_a_task_that_lies_about_its_blobs_is_waited_out(cloud: Cloud, tmp_path: Path, lie: dict[str, Blob]) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1, **lie)
    steps(agent)
    assert (cloud.heard(), State(tmp_path).round) == ([], 0)
    cloud.task(2)
    steps(agent)
    assert cloud.heard() == [2]


def test_a_chunk_with_other_bytes_than_its_name_is_not_used(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    cloud.bus.publish(TOPICS.chunk(chunk_name(PROGRAM)), b"x" * len(PROGRAM), retain=True)
    steps(agent)
    assert (cloud.heard(), State(tmp_path).blob(Blob.of(PROGRAM))) == ([], None)
    cloud.blob(PROGRAM)
    steps(agent)
    assert cloud.heard() == [1]


@given(st.binary(max_size=60), st.sampled_from(["task", "receipt", "chunk", "manifest"]))
def test_garbage_is_dropped(tmp_path_factory: pytest.TempPathFactory, payload: bytes, where: str) -> None:
    cloud = Cloud()
    folder = tmp_path_factory.mktemp("state")
    agent, _ = cloud.device(folder)
    task = cloud.task(1)
    agent.step(0)
    topic = {
        "task": TOPICS.task,
        "receipt": TOPICS.receipt(DEVICE),
        "chunk": TOPICS.chunk(chunk_name(PROGRAM)),
        "manifest": TOPICS.manifest(task.weights.digest),
    }
    if where != "task" or payload:
        cloud.bus.publish(topic[where], payload)
    steps(agent)
    assert cloud.heard() == [1]


def test_a_round_that_was_cut_off_before_it_was_spooled_is_done_again_alike(cloud: Cloud, tmp_path: Path) -> None:
    task = cloud.task(1)
    agent, bus = cloud.device(tmp_path)
    steps(agent)
    (whole,) = cloud.offers()
    bus.die()
    (tmp_path / "memory.json").write_text('{"round": 0, "boot": 1}')  # the power went between spooling and finishing
    again, _ = cloud.device(tmp_path)
    steps(again)
    (redone,) = cloud.offers()
    assert (redone.round, redone.blob) == (task.round, whole.blob)


def test_a_task_that_trains_nothing_is_fetched_and_kept(cloud: Cloud, tmp_path: Path) -> None:
    unwilling = Unwilling(DataError("asked to train"))
    agent, _ = cloud.device(tmp_path)
    before = cloud.task(1)
    steps(agent, 12)
    assert cloud.heard() == [1]  # its update has not been asked for, and waits
    agent, _ = cloud.device(tmp_path, unwilling)
    patch = Patch(before.weights.digest, "int8", cloud.blob(b"patch"))
    delivered = cloud.task(2, train=False, patch=patch)
    steps(agent, 12)
    state = State(tmp_path)
    assert (state.round, unwilling.asked, list((tmp_path / "spool").iterdir())) == (2, [], [])
    assert all(state.verify(blob) for blob in (delivered.program, delivered.weights))
    assert {path.name for path in state.blobs.iterdir()} == {delivered.program.digest, delivered.weights.digest}
    cloud.heard()
    steps(agent, 12)
    assert cloud.heard() == []
