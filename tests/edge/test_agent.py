"""One agent and its spool over the loopback, the cloud played by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from federations import Unwilling, never
from handmade import DEVICE, PARTS, PROGRAM, Cloud, P, steps

from fedfleet.edge.state import State
from fedfleet.edge.uploads import RESEND
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.calling import Ability, Needs, place
from fedfleet.wire.errors import DataError
from fedfleet.wire.messages import Status

LONG = 10 * RESEND[1]


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
    state = State(tmp_path)
    wanted = SeededTrainer(DEVICE).train(task, tmp_path, tmp_path / "blobs" / task.weights.digest, never)
    assert wanted is not None
    assert cloud.offers() == [state.spool.offer(1)]
    assert cloud.collect(agent, 1, PARTS) == wanted.delta
    assert state.round == 1
    cloud.receipt(1, "counted")
    steps(agent)
    cloud.now += LONG
    steps(agent)
    assert state.spool.offer(1) is None
    assert cloud.heard() == []
    agent.close()
    assert cloud.status() == Status("away", 1)


def test_who_is_not_called_does_no_work_and_asks_for_nothing(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path, Unwilling(AssertionError("trained all the same")))
    cloud.task(4, share=0.5, start=place(0, DEVICE) + 1)
    steps(agent)
    assert State(tmp_path).round == 4
    assert list((tmp_path / "blobs").iterdir()) == []
    assert bus.received < 2000
    assert cloud.heard() == []


def test_who_lacks_what_the_task_needs_does_no_work_either_and_all_it_says_tells_what_it_has(
    cloud: Cloud, tmp_path: Path
) -> None:
    able = Ability(("line-3",), 443, "armv7l", "tflite")
    agent, bus = cloud.device(tmp_path, ability=able)
    assert cloud.status() == Status("ready", 1, ability=able)
    cloud.task(1, needs=Needs(("camera",)))
    steps(agent)
    assert (State(tmp_path).round, bus.received < 2000, cloud.heard()) == (1, True, [])
    cloud.task(2, needs=Needs(("line-3",), 400))
    steps(agent)
    assert cloud.heard() == [2]
    agent._decline(cloud.task(3), DataError("no"))
    assert cloud.status() == Status("ready", 1, 3, "no", able)
    agent.close()
    assert cloud.status() == Status("away", 1, ability=able)


def test_the_will_tells_what_a_lost_device_has(cloud: Cloud, tmp_path: Path) -> None:
    able = Ability(("camera",), 923)
    _, bus = cloud.device(tmp_path, ability=able)
    bus.die()
    assert cloud.status() == Status("lost", 1, ability=able)


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
    assert State(tmp_path).spool.offer(1) is not None
    cloud.task(2, share=1e-9)  # which calls nobody here
    steps(agent)
    assert State(tmp_path).round == 2
    assert State(tmp_path).spool.offer(1) is None
    assert cloud.heard() == [1]


def test_down_counts_the_bytes_since_the_last_update(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    before = 0
    for number in (1, 2):
        cloud.task(number)
        steps(agent)
        (offered,) = cloud.offers()
        assert offered.metrics["down"] == bus.received - before
        assert offered.metrics["loss"] == 1.0
        before = bus.received
    assert 4 * P < offered.metrics["down"] < 4 * P + 2000


def test_the_spool_survives_a_new_start_and_is_offered_until_its_receipt(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    assert cloud.heard() == [1]
    bus.die()
    again, _ = cloud.device(tmp_path, Unwilling(AssertionError("trained twice")))
    assert cloud.status() == Status("ready", 2)
    steps(again)
    assert cloud.heard() == [1]
    cloud.now += 0.7 * RESEND[0]
    steps(again)
    assert cloud.heard() == []
    cloud.now += RESEND[0]
    steps(again)
    assert cloud.heard() == [1]
    cloud.receipt(1, "counted")
    cloud.now += LONG
    steps(again)
    assert cloud.heard() == []


def test_offers_come_more_and_more_seldom_while_nobody_answers(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    at = []
    for _ in range(2000):
        agent.step(0)
        at += [cloud.now] * len(cloud.heard())
        cloud.now += 1
    pauses = [b - a for a, b in pairwise(at)]
    assert len(pauses) > 5
    for count, pause in enumerate(pauses):
        assert 0.7 * min(15 * 2**count, 240) <= pause <= 1.3 * min(15 * 2**count, 240)


def test_only_what_is_asked_for_is_sent(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    assert cloud.heard() == [1]
    cloud.receipt(1, "missing", missing=(2, 0))
    steps(agent)
    assert [(number, index) for number, index, _ in cloud.parts()] == [(1, 2), (1, 0)]
    cloud.now += 0.7 * RESEND[0]
    steps(agent)
    assert cloud.parts() == []


def test_a_request_for_a_part_that_there_is_not_is_dropped(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    assert cloud.collect(agent, 1, (77,)) == b""
    assert "chunk 77 of a blob with 3" in caplog.text
    assert len(cloud.collect(agent, 1, PARTS)) == 4 * P


@pytest.mark.parametrize("what", ["the same task", "a new link"])
def test_the_update_is_offered_again_to_who_may_have_forgotten_it(cloud: Cloud, tmp_path: Path, what: str) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    assert cloud.heard() == [1]
    if what == "the same task":
        cloud.task(1)
    else:
        bus.connections += 1
    steps(agent)
    cloud.now += 1.0
    steps(agent)
    assert cloud.heard() == [1]


def test_a_spool_of_an_older_version_costs_the_round_once_more(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    first = cloud.offers()
    (path,) = (tmp_path / "spool").iterdir()
    path.rename(path.with_suffix(".parts"))
    bus.die()
    again, _ = cloud.device(tmp_path)
    steps(again)
    assert [one.blob for one in cloud.offers()] == [one.blob for one in first]
    assert "round 1: the spooled update cannot be read; training once more" in caplog.text


def test_an_update_that_has_rotted_in_the_spool_is_trained_once_more(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent)
    first = cloud.offers()
    (path,) = (tmp_path / "spool").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    bus.die()
    again, _ = cloud.device(tmp_path)
    steps(again)
    (second,) = cloud.offers()
    assert second.blob == first[0].blob
    assert len(cloud.collect(again, 1, PARTS)) == 4 * P


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
    assert cloud.parts() == []
    assert State(tmp_path).spool.offer(5) is not None
    cloud.receipt(5, "refused", reason="weights move by too much")
    cloud.now += LONG
    steps(agent)
    assert State(tmp_path).spool.offer(5) is None
    assert cloud.heard() == []
    assert "round 5: update refused: weights move by too much" in caplog.text
