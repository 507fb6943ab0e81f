"""One agent and its spool over the loopback, the cloud played by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from federations import Unwilling, never
from handmade import DEVICE, PARTS, PROGRAM, Cloud, P, steps

from fedfleet.edge.agent import RESEND
from fedfleet.edge.state import State
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.chunks import open_part
from fedfleet.wire.messages import Blob, Plan, Status, Task


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def test_a_task_becomes_an_update_and_a_receipt_ends_it(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    assert cloud.status() == Status("ready", 1)
    steps(agent)
    assert cloud.heard() == []
    task = cloud.task(1)
    steps(agent)
    payloads = [payload for _, payload in cloud.bus.deliveries(0)]
    state = State(tmp_path)
    wanted = SeededTrainer(DEVICE).train(task, tmp_path, tmp_path / "blobs" / task.weights.digest, never)
    assert wanted is not None
    assert b"".join(open_part(payload)[1] for payload in payloads) == wanted.delta
    assert state.round == 1
    assert state.spooled(1) == payloads
    cloud.receipt(1, "counted")
    steps(agent)
    cloud.now += 10 * RESEND
    steps(agent)
    assert state.spooled(1) == []
    assert cloud.heard() == []
    agent.close()
    assert cloud.status() == Status("away", 1)


def test_who_is_not_called_does_no_work_and_asks_for_nothing(cloud: Cloud, tmp_path: Path) -> None:
    share = 0.5
    agent, bus = cloud.device(tmp_path, Unwilling(AssertionError("trained all the same")))
    number = next(
        n for n in range(1, 99) if not Task(n, Blob("a" * 64, 1), Blob("a" * 64, 1), Plan(), share).calls(DEVICE)
    )
    cloud.task(number, share=share)
    steps(agent)
    assert State(tmp_path).round == number
    assert list((tmp_path / "blobs").iterdir()) == []
    assert bus.received < 2000
    assert cloud.heard() == []


def test_blobs_are_fetched_once_and_old_ones_removed(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    first = cloud.task(1)
    steps(agent)
    kept = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert kept == {first.program.digest, first.weights.digest}
    received = bus.received
    cloud.blob(PROGRAM)  # published again: nobody listens any more
    steps(agent)
    assert bus.received == received
    second = cloud.task(2)
    steps(agent)
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == {second.program.digest, second.weights.digest}
    assert bus.received - received < 4 * P + 2000


def test_an_update_without_a_receipt_is_dropped_for_a_newer_task(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    assert len(State(tmp_path).spooled(1)) == 3
    cloud.task(2, share=1e-9)  # which calls nobody here
    steps(agent)
    assert State(tmp_path).round == 2
    assert State(tmp_path).spooled(1) == []
    assert cloud.heard() == [(1, i) for i in PARTS]


def test_down_counts_the_bytes_since_the_last_update(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    before = 0
    for number in (1, 2):
        cloud.task(number)
        steps(agent)
        part, _ = open_part(cloud.bus.deliveries(0)[0].payload)
        assert part.metrics["down"] == bus.received - before
        assert part.metrics["loss"] == 1.0
        before = bus.received
    assert 4 * P < part.metrics["down"] < 4 * P + 2000


def test_the_spool_survives_a_new_start_and_is_sent_until_its_receipt(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    assert cloud.heard() == [(1, i) for i in PARTS]
    bus.die()
    again, _ = cloud.device(tmp_path, Unwilling(AssertionError("trained twice")))
    assert cloud.status() == Status("ready", 2)
    steps(again)
    assert cloud.heard() == [(1, i) for i in PARTS]
    cloud.now += RESEND - 1
    steps(again)
    assert cloud.heard() == []
    cloud.now += 2
    steps(again)
    assert cloud.heard() == [(1, i) for i in PARTS]
    cloud.receipt(1, "counted")
    cloud.now += 2 * RESEND
    steps(again)
    assert cloud.heard() == []


def test_only_the_missing_parts_are_sent_again(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    cloud.heard()
    cloud.receipt(1, "missing", missing=(2, 0, 77))
    steps(agent)
    assert cloud.heard() == [(1, 0), (1, 2)]
    cloud.now += RESEND - 1
    steps(agent)
    assert cloud.heard() == []


def test_a_refused_update_is_dropped_and_a_receipt_for_another_round_changes_nothing(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(5)
    steps(agent)
    for number in (4, 6):
        cloud.receipt(number, "refused", reason="not yours")
        cloud.receipt(number, "missing", missing=(1,))
    cloud.heard()
    steps(agent)
    assert cloud.heard() == []
    assert len(State(tmp_path).spooled(5)) == 3
    cloud.receipt(5, "refused", reason="weights move by too much")
    cloud.now += 2 * RESEND
    steps(agent)
    assert State(tmp_path).spooled(5) == []
    assert cloud.heard() == []
    assert "round 5: update refused: weights move by too much" in caplog.text
