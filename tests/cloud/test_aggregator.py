"""Whole federations over the loopback: the final weights are what plain NumPy says, to the bit."""

from __future__ import annotations

import pytest
from federations import ALL, DEADLINE, PROGRAM, TOPICS, UNINTERRUPTED, Unwilling, fedavg, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.settings import Rounds
from fedfleet.wire.chunks import only_name
from fedfleet.wire.errors import DataError
from fedfleet.wire.messages import Blob, Plan, Status, Task, decode, encode


def test_the_result_is_fedavg_in_fixed_point() -> None:
    with world() as found:
        assert found.play() == UNINTERRUPTED
        assert [record.weights for record in found.records][-1] == UNINTERRUPTED
        assert [record.round for record in found.records] == [1, 2, 3]
        for record in found.records:
            assert (record.state, record.called, record.reported, record.late) == ("closed", 3, 3, 0)
            assert (record.examples, record.train_loss) == (60, 1.0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60))
def test_any_interleaving_of_steps_gives_the_same_weights(schedule: list[int]) -> None:
    with world() as found:
        assert found.play(schedule) == UNINTERRUPTED


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40))
def test_devices_that_lose_power_and_come_back_change_nothing(schedule: list[int]) -> None:
    with world() as found:
        found.until(1)
        for actor in schedule:
            if found.cloud.done:
                break
            if actor <= 3:
                found.act(actor)
            else:
                found.device_dies(f"d{actor - 4}")
                found.device_starts(f"d{actor - 4}")
        assert found.play() == UNINTERRUPTED
        assert {record.reported for record in found.records} == {3}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=60))
def test_an_aggregator_that_is_dropped_anywhere_goes_on_where_it_was(schedule: list[int]) -> None:
    with world() as found:
        for actor in schedule:
            if actor == 4:
                found.cloud_dies()
                found.cloud_starts()
            elif not found.cloud.done:
                found.act(actor)
        assert found.play() == UNINTERRUPTED
        assert {(record.reported, record.examples) for record in found.records} <= {(3, 60)}
        found.cloud.retire()
        assert found.blobs() == set()


@pytest.mark.parametrize("last", range(0, 24))
def test_any_step_may_be_the_last_of_an_aggregator(last: int) -> None:
    with world() as found:
        for actor in (step % 4 for step in range(last)):
            found.act(actor)
        found.cloud_dies()
        found.cloud_starts()
        assert found.play() == UNINTERRUPTED
        assert found.journal.closed_rounds() == 3


def test_what_was_counted_before_an_end_is_counted_after_it_and_once() -> None:
    with world() as found:
        found.until(1)
        while not found.cloud.progress()[2]:
            for actor in (1, 0):
                found.act(actor)
        found.act(1)  # d0 has its receipt and will not send its update again
        for device in ("d0", "d1"):
            found.device_dies(device)
            found.device_starts(device)
        for _ in range(2):
            found.cloud_dies()
            found.cloud_starts()
            found.act(0)
            assert found.cloud.progress() == (1, 3, 1)
        assert found.play() == UNINTERRUPTED
        assert found.now < DEADLINE


def test_a_device_that_is_away_for_a_round_is_not_waited_for_and_joins_again() -> None:
    with world() as found:
        found.until(2)
        found.device_dies("d2")
        found.until(3)
        found.device_starts("d2")
        two = {"d0": 10, "d1": 20}
        assert found.play() == fedavg({1: ALL, 2: two, 3: ALL})
        assert [record.reported for record in found.records] == [3, 2, 3]


def test_a_device_that_comes_in_the_middle_of_a_round_is_called_by_the_retained_task() -> None:
    with world(devices=2, rounds=Rounds(total=1, devices=2, deadline=DEADLINE)) as found:
        found.until(1)
        found.devices = 3
        found.device_starts("d2")
        assert found.play() == fedavg({1: ALL})


def test_nothing_begins_before_enough_devices_are_there() -> None:
    with world(devices=2) as found:
        for actor in (0, 1, 2) * 5:
            found.act(actor)
        assert found.cloud.waiting() == "2 of 3 devices are there"
        assert found.cloud.progress() == (0, 0, 0)
        assert TOPICS.task not in found.hub.retained


def test_an_abandoned_round_is_tried_again_under_a_new_number_from_the_same_weights() -> None:
    rounds = Rounds(total=2, devices=3, quorum=3, deadline=DEADLINE)
    with world(rounds=rounds) as found:
        found.until(1)
        found.device_dies("d1")
        first = decode(Task, found.hub.retained[TOPICS.task])
        for _ in range(30):
            found.act(_ % 4)
        assert found.cloud.waiting() == "2 reported, quorum 3; waiting for more devices"
        found.now += DEADLINE
        found.act(0)
        again = decode(Task, found.hub.retained[TOPICS.task])
        assert (again.round, again.weights) == (2, first.weights)
        assert (found.records[0].state, found.records[0].weights) == ("abandoned", first.weights.digest)
        found.device_starts("d1")
        assert found.play() == fedavg({2: ALL, 3: ALL})
        assert [record.state for record in found.records] == ["abandoned", "closed", "closed"]


def test_superseded_weights_are_cleared_from_the_broker() -> None:
    with world() as found:
        for number in (1, 2, 3):
            found.until(number)
            task = decode(Task, found.hub.retained[TOPICS.task])
            assert found.blobs() == {only_name(task.program), only_name(task.weights)}
        found.play()
        found.cloud.retire()
        assert found.blobs() == set()
        assert TOPICS.task not in found.hub.retained


def test_superseded_weights_are_cleared_by_the_next_start_too() -> None:
    with world() as found:
        found.until(2)
        stale = {topic: payload for topic, payload in found.hub.retained.items() if "/chunk/" in topic}
        found.until(3)
        found.cloud_dies()
        found.hub.retained.update(stale)  # as if it had died before it could clear them
        found.cloud_starts()
        found.act(0)
        task = decode(Task, found.hub.retained[TOPICS.task])
        assert found.blobs() == {only_name(task.program), only_name(task.weights)}


def test_rounds_of_a_fleet_only_grow_whoever_runs_them() -> None:
    with world() as found:
        found.play()
        found.cloud_dies()  # without clearing its task
        found.folder = found.folder / "another"
        found.cloud_starts()
        found.until(4)
        assert found.play() == fedavg({4: ALL, 5: ALL, 6: ALL})


def test_a_round_that_another_aggregator_has_overtaken_is_abandoned() -> None:
    with world() as found:
        found.until(2)
        found.cloud_dies()
        far = Task(40, Blob.of(PROGRAM), Blob("e" * 64, 4), Plan())
        found.hub.publish(TOPICS.task, encode(far), retain=True)
        found.cloud_starts()
        found.until(41)
        assert found.play() == fedavg({1: ALL, 41: ALL, 42: ALL})


def test_a_device_that_declines_is_not_waited_for_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    unwilling = Unwilling(DataError("label 12 is not one of the model's"))
    with world(trainers={"d1": unwilling}) as found:
        rest = {"d0": 10, "d2": 30}
        assert found.play() == fedavg({1: rest, 2: rest, 3: rest})
        assert found.now < 100
        assert unwilling.asked == [1, 2, 3]
        for record in found.records:
            assert record.reason.endswith("1 declined, d1: label 12 is not one of the model's")
    assert "d1 declined round 1: label 12 is not one of the model's" in caplog.text


def test_what_was_declined_is_still_known_after_a_lost_link_and_a_new_aggregator() -> None:
    with world(trainers={"d1": Unwilling(DataError("no"))}) as found:
        found.until(1)
        for actor in (2, 2, 2, 2, 0):  # d1 declines, and the aggregator hears it
            found.act(actor)
        found.cloud_dies()
        found.cloud_starts()
        found.act(0)
        assert "1 declined, d1: no" in found.cloud.waiting()
        found.hub.publish(TOPICS.status("d1"), encode(Status("ready", 1)), retain=True)
        for actor in [0, 1, 3] * 8:
            found.act(actor)
        assert found.cloud.progress()[0] == 2


def test_a_device_that_is_gone_does_not_hold_up_a_new_aggregator_for_ever() -> None:
    with world() as found:
        found.until(2)
        found.cloud_dies()
        found.device_dies("d2")
        found.cloud_starts()
        for _ in range(40):
            found.act(_ % 3)
        assert found.cloud.waiting() == "2 of 3 devices are there"
        found.now += DEADLINE
        found.play(limit=4000)
        assert [record.reported for record in found.records] == [3, 2, 2]


def test_a_fleet_that_finished_one_federation_takes_part_in_the_next() -> None:
    """The second aggregator has an empty journal and finds no task, while devices remember the rounds of the first."""
    with world() as found:
        first = found.play()
        found.cloud.retire()
        for device in found.names:
            found.agents[device][0].step(0)
        found.device_dies("d2")
        found.cloud_dies()
        found.folder = found.folder / "anew"
        for device in ("d0", "d1"):
            assert found.agents[device][0]._state.round == 3
        found.cloud_starts()
        found.folder = found.folder.parent
        found.device_starts("d2")
        assert found.play() == first
        assert [record.reported for record in found.records] == [3] * 6


def test_a_small_share_never_calls_too_few() -> None:
    """Of 3 devices a share of 0.1 calls nobody in most rounds: a window is made larger, not waited out."""
    with world(rounds=Rounds(total=8, devices=3, share=0.1, quorum=2, deadline=DEADLINE)) as found:
        found.play()
        assert [record.state for record in found.records] == ["closed"] * 8
        assert all(record.called >= 2 and record.seconds < DEADLINE / 2 for record in found.records)
        assert [record.round for record in found.records] == list(range(1, 9))


def test_rounds_that_all_decline_wait_for_their_deadline_and_show_why() -> None:
    unwilling = {device: Unwilling(DataError("no examples yet")) for device in ALL}
    with world(trainers=unwilling) as found:
        found.until(1)
        for actor in range(40):
            found.act(actor % 4)
        assert found.cloud.progress() == (1, 3, 0)
        assert (
            found.cloud.waiting() == "0 reported, quorum 1; waiting for more devices; 3 declined, d0: no examples yet"
        )
        found.now += DEADLINE
        for actor in range(40):
            found.act(actor % 4)
        assert found.cloud.progress() == (2, 3, 0)  # a server goes on
        assert found.records[0].reason.endswith("with 0 reported, quorum 1; 3 declined, d0: no examples yet")
        assert unwilling["d2"].asked == [1, 2]


def test_a_round_that_all_decline_is_ended_by_who_is_in_a_hurry() -> None:
    with world(trainers={"d0": Unwilling(DataError("no")), "d1": Unwilling(DataError("no"))}) as found:
        assert found.cloud.hurry() == ""
        found.until(1)
        for actor in range(40):
            found.act(actor % 4)
            assert found.cloud.hurry() == ""  # d2 trains
        assert found.records[0].state == "closed"
    with world(trainers={device: Unwilling(DataError("no")) for device in ALL}) as found:
        found.until(1)
        for actor in (1, 2, 3, 0):
            found.act(actor)
        assert found.cloud.hurry() == ""  # they have only asked for the program
        while not (reason := found.cloud.hurry()):
            for actor in (1, 2, 3, 0):
                found.act(actor)
        assert reason == "3 of 3 devices called have declined, d0: no"
        assert (found.records[0].state, found.records[0].reason) == ("abandoned", reason)
        assert found.cloud.progress()[0] == 2
        assert found.cloud.hurry() == ""
        assert found.now < DEADLINE
