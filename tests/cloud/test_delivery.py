"""Going back to an older model reaches the whole fleet: every device has its bytes, whether rounds go on or are over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from federations import DEADLINE, PROGRAM, TOPICS, World, weights, world

from fedfleet.cloud.delivery import as_task, gone_back_to
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import find, versions
from fedfleet.cloud.settings import Rounds
from fedfleet.wire.chunks import only_name
from fedfleet.wire.messages import Blob, Plan, Task, decode, encode


def rolled_back(found: World, back: int) -> bytes:
    """The aggregator stops, its owner goes back, and starts it again; returns the weights that are gone back to."""
    found.cloud_dies()
    journal = Journal(found.folder / "cloud")
    journal.roll_back(back)
    data = journal.blobs.get(find(versions(found.folder / "cloud"), str(back)).weights)
    journal.close()
    found.cloud_starts()
    return data


def on_devices(found: World) -> list[set[bytes]]:
    """What each device has on its disk: the program and weights."""
    return [{path.read_bytes() for path in (found.folder / d / "blobs").iterdir()} for d in found.names]


def settle(found: World, turns: int = 12) -> None:
    for actor in list(range(found.devices + 1)) * turns:
        found.act(actor)


@pytest.fixture
def over() -> Iterator[World]:
    """A federation that has come to its end, and whose task has been cleared."""
    with world() as found:
        found.play()
        found.cloud.retire()
        settle(found, 2)
        assert TOPICS.task not in found.hub.retained
        yield found


@pytest.mark.parametrize("downlink", ["", "int8"])
def test_while_rounds_go_on_the_next_task_brings_it(downlink: str) -> None:
    with world(rounds=Rounds(total=3, devices=3, deadline=DEADLINE, downlink=downlink)) as found:
        found.until(3)
        data = rolled_back(found, 1)
        found.until(5)
        while any(data not in held for held in on_devices(found)):
            assert found.cloud.progress()[0] == 5
            for actor in range(4):
                found.act(actor)
        assert on_devices(found) == [{PROGRAM, data}] * 3


@pytest.mark.parametrize("back", [1, 2])
def test_when_the_federation_is_over_a_task_of_its_own_brings_it(over: World, back: int) -> None:
    spools = [over.folder / device / "spool" for device in over.names]
    before = [sorted(spool.iterdir()) for spool in spools]
    data = rolled_back(over, back)
    assert not over.cloud.done
    over.play()
    over.cloud.retire()
    assert over.cloud.weights.astype("<f4").tobytes() == data
    settle(over)  # the aggregator has gone home; what it left is retained
    assert on_devices(over) == [{PROGRAM, data}] * 3
    task = decode(Task, over.hub.retained[TOPICS.task])
    assert (task.round, task.train, task.weights) == (4, False, Blob.of(data))
    assert over.blobs() == {only_name(task.program), only_name(task.weights)}
    assert [sorted(spool.iterdir()) for spool in spools] == before  # nobody trained
    assert over.journal.closed_rounds() == 3


def test_devices_that_come_later_get_it_with_the_aggregator_gone(over: World) -> None:
    over.device_dies("d2")
    over.rounds = Rounds(total=3, devices=2, deadline=DEADLINE)
    data = rolled_back(over, 1)
    over.play()
    over.cloud.retire()
    over.cloud_dies()
    over.device_starts("d2")
    for _ in range(12):
        for device in over.names:
            over.agents[device][0].step(0)
    assert on_devices(over) == [{PROGRAM, data}] * 3
    over.journal = Journal(over.folder / "cloud")


def test_each_further_start_says_the_same_and_asks_for_nothing(over: World) -> None:
    data = rolled_back(over, 2)
    for _ in range(2):
        over.play()
        over.cloud.retire()
        said = over.hub.retained[TOPICS.task]
        settle(over)
        over.cloud_dies()
        over.cloud_starts()
        assert over.hub.retained[TOPICS.task] == said
    over.play()
    assert on_devices(over) == [{PROGRAM, data}] * 3


@pytest.mark.parametrize("last", range(0, 9))
def test_an_aggregator_that_is_dropped_meanwhile_says_it_again(over: World, last: int) -> None:
    data = rolled_back(over, 1)
    for actor in (step % 4 for step in range(last)):
        over.act(actor)
    over.cloud_dies()
    over.cloud_starts()
    over.play()
    settle(over)
    assert on_devices(over) == [{PROGRAM, data}] * 3


def test_who_goes_back_twice_leaves_one_model_on_the_broker(over: World) -> None:
    for back in (1, 2):  # not the other way round: what the last round began from is cleared anyway
        data = rolled_back(over, back)
        over.play()
        over.cloud.retire()
        settle(over)
        task = decode(Task, over.hub.retained[TOPICS.task])
        assert over.blobs() == {only_name(task.program), only_name(task.weights)}
        assert on_devices(over) == [{PROGRAM, data}] * 3
    assert task.round == 5


def test_a_fleet_that_has_seen_later_rounds_gets_a_later_number(over: World) -> None:
    far = Task(40, Blob.of(PROGRAM), Blob("e" * 64, 4), Plan())
    over.hub.publish(TOPICS.task, encode(far), retain=True)
    settle(over, 2)
    data = rolled_back(over, 1)
    over.play()
    settle(over)
    assert decode(Task, over.hub.retained[TOPICS.task]).round == 41
    assert on_devices(over) == [{PROGRAM, data}] * 3


def test_rounds_that_are_added_go_on_from_it_and_clear_it(over: World) -> None:
    data = rolled_back(over, 1)
    over.play()
    settle(over)
    over.cloud_dies()
    over.rounds = Rounds(total=4, devices=3, deadline=DEADLINE)
    over.cloud_starts()
    over.until(5)
    task = decode(Task, over.hub.retained[TOPICS.task])
    assert (task.round, task.train, task.weights) == (5, True, Blob.of(data))
    over.play()
    assert [version.round for version in versions(over.folder / "cloud")] == [1, 2, 3, 4, 5]
    over.cloud.retire()
    assert over.blobs() == set()


def test_nothing_is_brought_where_nothing_was_gone_back_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert gone_back_to(journal) is None
    model = weights().astype("<f4").tobytes()
    for number in (1, 2):
        journal.open_round(Task(number, Blob.of(PROGRAM), journal.blobs.put(model), Plan()))
        journal.close_round(number, model + bytes(number), b"moments")
        assert gone_back_to(journal) is None
    journal.roll_back(1)
    found = gone_back_to(journal)
    assert found is not None and (found.round, found.weights) == (3, Blob.of(model + bytes(1)).digest)
    assert [as_task(found, Blob.of(PROGRAM), 10, newest).round for newest in (0, 2, 3, 4)] == [3, 3, 3, 5]
    journal.open_round(Task(4, Blob.of(PROGRAM), journal.blobs.put(model), Plan()))
    journal.abandon_round(4)
    assert gone_back_to(journal) == found  # which came to nothing
    journal.open_round(Task(5, Blob.of(PROGRAM), journal.blobs.put(model), Plan()))
    journal.close_round(5, model, b"moments")
    assert gone_back_to(journal) is None
    journal.close()
