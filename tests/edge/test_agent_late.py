"""Work that newer tasks overtake, where these still let it count: ended, offered, receipted, before the newest begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from federations import never
from handmade import DEVICE, PARTS, Cloud, steps

from fedfleet.edge.spool import Spool
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Stop
from fedfleet.edge.uploads import counts
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.messages import Blob, Plan, Task, Update


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


class Overtaken:
    """Trains; `meanwhile` happens in the middle of the first training."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.asked: list[int] = []
        self.ended: list[int] = []

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Return None if it was stopped."""
        self.asked.append(task.round)
        if len(self.asked) == 1:
            assert not stop()
            self.meanwhile()
        if stop():
            return None
        self.ended.append(task.round)
        return SeededTrainer(DEVICE).train(task, program, weights, never)

    def close(self) -> None: ...


def test_what_newer_tasks_let_count_is_brought_to_its_end_first(cloud: Cloud, tmp_path: Path) -> None:
    def newer() -> None:
        cloud.task(2, staleness=2)
        cloud.task(3, staleness=2)

    trainer = Overtaken(newer)
    agent, _ = cloud.device(tmp_path, trainer)
    task = cloud.task(1, staleness=2)
    steps(agent, 12)
    assert (trainer.ended, cloud.heard()) == ([1], [1])
    wanted = SeededTrainer(DEVICE).train(task, tmp_path, tmp_path / "blobs" / task.weights.digest, never)
    assert wanted is not None
    assert cloud.collect(agent, 1, PARTS) == wanted.delta
    assert trainer.ended == [1]
    cloud.receipt(1, "counted")
    steps(agent, 12)
    assert (trainer.ended, cloud.heard(), State(tmp_path).round) == ([1, 3], [3], 3)


@pytest.mark.parametrize(
    ("number", "fields"),
    [(2, {}), (4, {"staleness": 2}), (2, {"staleness": 9, "program": Blob("a" * 64, 7)}), (2, {"train": False})],
)
def test_what_would_not_count_is_stopped(cloud: Cloud, tmp_path: Path, number: int, fields: dict[str, object]) -> None:
    trainer = Overtaken(lambda: cloud.task(number, **fields))
    agent, _ = cloud.device(tmp_path, trainer)
    cloud.task(1, staleness=9)
    steps(agent, 12)
    assert 1 not in trainer.ended
    assert 1 not in cloud.heard()


def test_the_same_task_anew_after_it_was_cleared_begins_anew() -> None:
    task, again = (Task(3, Blob("a" * 64, 9), Blob("b" * 64, 4), Plan(), staleness=5) for _ in range(2))
    assert counts(task, task)
    assert not counts(task, again)
    assert not counts(task, None)


def test_a_receipt_that_refuses_ends_the_waiting_too(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path, Overtaken(lambda: cloud.task(2, staleness=1)))
    cloud.task(1)
    steps(agent, 12)
    assert cloud.heard() == [1]
    cloud.receipt(2, "counted")  # of nothing that was said
    steps(agent)
    assert State(tmp_path).spool.round() == 1
    cloud.receipt(1, "refused", reason="no")
    steps(agent, 12)
    assert cloud.heard() == [2]


def test_a_task_that_comes_while_parts_are_on_their_way_changes_nothing(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    (offered,) = cloud.offers()
    first = cloud.collect(agent, 1, PARTS[:1])
    cloud.task(2, staleness=1)
    steps(agent)
    assert cloud.heard() == []  # the offer stands
    assert Blob.of(first + cloud.collect(agent, 1, PARTS[1:])) == offered.blob
    assert agent.due() > cloud.now
    cloud.task(3, staleness=1)
    steps(agent, 12)
    assert cloud.heard() == [3]  # round 1 counts no more


def test_after_a_start_what_was_spooled_goes_first_if_it_still_counts(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    bus.die()
    assert cloud.heard() == [1]
    cloud.task(3, staleness=2)
    agent, bus = cloud.device(tmp_path)
    steps(agent, 12)
    assert cloud.heard() == [1]
    assert len(cloud.collect(agent, 1, PARTS)) == 160_000
    bus.die()
    agent, bus = cloud.device(tmp_path)
    steps(agent, 12)
    assert cloud.heard() == [1]  # its receipt was lost with the power
    cloud.receipt(1, "counted")
    steps(agent, 12)
    assert cloud.heard() == [3]
    bus.die()
    cloud.task(6, staleness=2)
    agent, _ = cloud.device(tmp_path)
    steps(agent, 12)
    assert cloud.heard() == [6]


def test_who_lost_power_while_training_begins_with_the_newest(cloud: Cloud, tmp_path: Path) -> None:
    held = Overtaken(lambda: None)
    held.train = lambda *_: None  # type: ignore[method-assign]
    agent, bus = cloud.device(tmp_path, held)
    cloud.task(1)
    steps(agent)
    bus.die()
    cloud.task(2, staleness=1)
    agent, _ = cloud.device(tmp_path)
    steps(agent, 12)
    assert cloud.heard() == [2]


def test_a_late_update_that_has_rotted_makes_way(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    bus.die()
    cloud.heard()
    (path,) = (tmp_path / "spool").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    cloud.task(2, staleness=1)
    agent, _ = cloud.device(tmp_path)
    steps(agent, 12)
    assert cloud.heard() == [2]


def test_the_spool_knows_its_round_and_takes_no_stranger_for_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    assert spool.round() == 0
    (tmp_path / "x.update").touch()
    (tmp_path / "9.other").touch()
    assert spool.round() == 0
    spool.keep(Update(7, DEVICE, 1, "float32", b"1234"))
    assert spool.round() == 7
