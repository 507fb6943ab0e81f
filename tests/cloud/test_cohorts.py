"""Rounds that want a number of updates: full, grace, retried with a reason, never hung; and whole federations of them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
from federations import DEADLINE, TOPICS, Unwilling, fedavg, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.rounds import Round
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.sums import Mean
from fedfleet.wire.calling import LAP, Ability, Needs
from fedfleet.wire.chunks import split
from fedfleet.wire.errors import DataError
from fedfleet.wire.messages import Blob, Plan, Receipt, Task, Update, decode
from fedfleet.wire.record import plain

P = 4
LIMIT = 60.0
CAMERA = Ability(("camera",), 512)


def task(**fields: object) -> Task:
    wanted = {"round": 3, "program": Blob("a" * 64, 9), "weights": Blob("b" * 64, 4 * P), "plan": Plan()}
    return Task(**{**wanted, "deadline": LIMIT, **fields})  # type: ignore[arg-type]


def update(device: str) -> Update:
    return Update(3, device, 10, "float32", np.ones(P, "<f4").tobytes())


def fresh(*present: str, target: int = 2, grace: float = 0.0, quorum: int = 1) -> Round:
    return Round(task(), P, Mean.empty(P), quorum, present, target=target, grace=grace)


def test_it_closes_as_soon_as_it_has_what_was_wanted() -> None:
    found = fresh("a", "b", "c")
    found.take(update("a"))
    assert found.verdict(1) == ("open", "1 reported, quorum 1, 2 wanted; waiting for b, c")
    found.take(update("b"))
    assert found.verdict(1) == ("closed", "2 of 3 reported, 2 were wanted")


def test_those_on_their_way_have_the_grace_and_count() -> None:
    found = fresh("a", "b", "c", "d", grace=5.0)
    for device in "ab":
        found.take(update(device))
    assert found.verdict(10) == ("open", "2 reported, 2 wanted; 5 s of grace for c, d")
    found.take(update("c"))
    assert found.verdict(14.9).reason == "3 reported, 2 wanted; 5 s of grace for d"
    assert found.verdict(15) == ("closed", "3 of 4 reported, 2 were wanted")
    found.lose("d")
    assert found.verdict(14.9) == ("closed", "all 3 present devices that were called have reported")


def test_grace_ends_with_the_deadline_and_a_few_may_still_be_a_quorum() -> None:
    found = fresh("a", "b", "c", grace=5.0)
    for device in "ab":
        found.take(update(device))
    assert found.verdict(LIMIT - 1).state == "open"
    assert found.verdict(LIMIT) == ("closed", "deadline of 60 s with 2 of 3 reported")
    few = fresh("a", "b", "c", target=3)
    few.take(update("a"))
    assert few.verdict(LIMIT) == ("closed", "deadline of 60 s with 1 of 3 reported")


def test_a_target_below_the_quorum_does_not_close() -> None:
    found = fresh("a", "b", "c", target=1, quorum=2)
    found.take(update("a"))
    assert found.verdict(1).state == "open"


def test_of_many_that_are_waited_for_eight_are_named() -> None:
    found = fresh(*(f"d{i}" for i in range(1000)))
    text = found.verdict(1).reason.removeprefix("0 reported, quorum 1, 2 wanted; waiting for ")
    assert text.endswith(" and 992 more")
    assert text.count(",") == 7


def test_who_lacks_what_is_needed_is_not_called_and_told_why() -> None:
    fits = {"a"}
    needs = Needs(("camera",), 512)
    found = Round(task(needs=needs), P, Mean.empty(P), 1, ("a", "b"), fits=fits.__contains__)
    assert found.called == {"a"}
    found.decline("b", "no")
    assert found.declined == {}
    reason = "the task needs the tag camera and 512 MiB of memory"
    assert found.foresee("b", 3) == Receipt(3, "refused", reason=reason)
    assert found.foresee("a", 3) is None
    fits.clear()
    found.join("a")  # it was started anew, without its tag
    assert found.verdict(1).reason == (
        "0 reported, quorum 1; waiting for more devices with the tag camera and 512 MiB of memory"
    )
    assert found.take(update("a")).outcome == "counted"  # the journal had it
    assert found.foresee("a", 3) == Receipt(3, "counted")


EVENTS = st.one_of(
    st.tuples(st.sampled_from(["join", "lose", "decline", "take", "refuse"]), st.sampled_from("abcdef")),
    st.tuples(st.just("wait"), st.floats(0, LIMIT)),
)


@settings(deadline=None)
@given(
    st.lists(EVENTS, max_size=40),
    st.integers(0, 6),
    st.integers(1, 6),
    st.floats(0, 2 * LIMIT),
    st.floats(0.05, 1),
    st.sets(st.sampled_from("abcdef")),
)
def test_whatever_comes_a_round_is_over_by_its_deadline_and_says_why(
    events: list[tuple[str, object]], target: int, quorum: int, grace: float, share: float, fit: set[str]
) -> None:
    found = Round(task(share=share), P, Mean.empty(P), quorum, "abc", target=target, grace=grace, fits=fit.__contains__)
    elapsed = 0.0
    for event, what in events:
        if event == "wait":
            assert isinstance(what, float)
            elapsed += what
        else:
            _tell(found, event, str(what))
        verdict = found.verdict(elapsed)
        assert verdict.reason
        assert elapsed < LIMIT or verdict.state != "open"
        assert (verdict.state == "abandoned") is (elapsed >= LIMIT and len(found.counted) < quorum)
    assert found.verdict(LIMIT).state != "open"
    assert set(found.counted) <= found.called


def _tell(found: Round, event: str, device: str) -> None:
    if event in ("join", "lose"):
        getattr(found, event)(device)
    elif event == "decline":
        found.decline(device, "no")
    elif event == "take":
        found.take(update(device))
    else:
        found.take(Update(3, device, 10, "float32", b"1234"))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40))
def test_whatever_comes_a_federation_gets_on_with_every_deadline(schedule: list[int]) -> None:
    rounds = Rounds(total=99, devices=2, quorum=2, deadline=DEADLINE, cohort=2, over=1.5, grace=3)
    with world(rounds=rounds, trainers={"d1": Unwilling(DataError("no"))}) as found:
        found.until(1)
        for event in schedule:
            if event == 9:
                found.cloud_dies()
                found.cloud_starts()
            elif event < 4:
                found.act(event)
            elif event < 7 and f"d{event - 4}" in found.agents:
                found.device_dies(f"d{event - 4}")
            elif event >= 7 and f"d{event - 7}" not in found.agents:
                found.device_starts(f"d{event - 7}")
        number = found.cloud.progress()[0]
        for _ in range(2):  # a new start waits so long for its devices, then the round for them
            assert found.cloud.waiting()
            found.now += DEADLINE
            found.act(0)
        assert found.cloud.progress()[0] > number


def test_a_round_that_follows_an_abandoned_one_says_so_until_one_closes() -> None:
    with world(rounds=Rounds(total=2, devices=3, quorum=3, deadline=DEADLINE)) as found:
        found.until(1)
        found.device_dies("d1")
        for step in range(30):
            found.act(step % 4)
        found.now += DEADLINE
        found.act(0)
        assert found.cloud.waiting() == (
            "0 reported, quorum 3; waiting for d0, d2; "
            "round 2 follows round 1, abandoned: deadline of 1000 s with 2 reported, quorum 3"
        )
        found.now += DEADLINE
        found.act(0)
        assert "; round 3 follows round 2, abandoned: deadline of 1000 s with 0 reported" in found.cloud.waiting()
        found.device_starts("d1")
        found.until(4)
        assert "follows" not in found.cloud.waiting()


def test_an_abandoned_round_is_tried_again_with_the_next_window_and_so_it_is_after_a_new_start() -> None:
    rounds = Rounds(total=9, devices=12, share=0.25, quorum=2, deadline=DEADLINE)
    nobody = {f"d{i}": Unwilling(DataError("no")) for i in range(12)}
    with world(devices=12, rounds=rounds, trainers=nobody) as found:
        found.until(1)
        tasks = []
        for number in (1, 2, 3):
            tasks.append(decode(Task, found.hub.retained[TOPICS.task]))
            assert tasks[-1].round == number
            found.cloud_dies()
            found.cloud_starts()
            found.act(0)
            found.now += DEADLINE
            found.act(0)
        assert tasks[0].start == 0
        for before, after in pairwise(tasks):
            assert after.start == before.next_start
            assert after.share >= 0.25


def test_a_task_of_a_journal_from_before_there_were_laps_begins_at_the_first() -> None:
    with world(rounds=Rounds(total=2, devices=3, share=0.5, deadline=DEADLINE)) as found:
        found.until(1)
        old = {key: value for key, value in plain(found.journal.open_task()).items() if key not in ("start", "needs")}
        found.journal._run("UPDATE rounds SET task = ?", json.dumps(old | {"share": 1.0}))
        found.cloud_dies()
        found.cloud_starts()
        found.play()
        assert found.records[0].called == 3
        task = found.journal.ended_task()
        assert task is not None and task.start == LAP


def test_a_cohort_of_a_larger_fleet_is_called_anew_in_each_round_and_all_have_their_turn() -> None:
    rounds = Rounds(total=10, devices=12, cohort=2, over=1.5, deadline=DEADLINE)
    with world(devices=12, rounds=rounds) as found:
        found.play()
        assert [record.state for record in found.records] == ["closed"] * 10
        assert all(record.called == 3 and record.reported in (2, 3) for record in found.records)
        assert found.now < DEADLINE
        tasks = [found.journal._task(f"SELECT task FROM rounds WHERE round = {n}") for n in range(1, 11)]
        calls = [sum(task is not None and task.calls(device) for task in tasks) for device in found.names]
        assert set(calls) <= {2, 3}


def test_who_comes_too_late_for_a_full_round_is_told_and_goes_on() -> None:
    with world(rounds=Rounds(total=2, devices=3, cohort=1, over=3, deadline=DEADLINE)) as found:
        found.until(1)
        late = split(Update(1, "d2", 30, "float32", bytes(160)))[0]
        for _ in range(8):
            if found.cloud.progress()[0] == 1:
                found.act(1)
                found.act(0)
        assert found.cloud.progress() == (2, 3, 0)
        found.hub.publish(TOPICS.update("d2"), late, retain=False)
        bus = found.hub.connect()
        bus.subscribe(TOPICS.receipt("d2"))
        found.act(0)
        (receipt,) = [decode(Receipt, payload) for _, payload in bus.deliveries(0)]
        assert (receipt.outcome, receipt.reason) == ("refused", "round 1 is over, the task is round 2")
        assert (found.records[0].called, found.records[0].reported, found.records[0].late) == (3, 1, 2)
        assert found.records[0].reason == "1 of 3 reported, 1 were wanted"
        found.play()


def test_a_cohort_is_made_of_those_that_have_what_is_needed() -> None:
    able = {f"d{i}": CAMERA for i in range(0, 12, 3)}
    rounds = Rounds(total=4, devices=4, cohort=2, over=1, deadline=DEADLINE, tags=("camera",))
    with world(devices=12, rounds=rounds, abilities=able) as found:
        found.play()
        assert [(record.state, record.called, record.reported) for record in found.records] == [("closed", 2, 2)] * 4
        assert found.now < DEADLINE


def test_the_late_of_a_federation_have_their_grace() -> None:
    with world(rounds=Rounds(total=1, devices=3, cohort=2, over=1.5, grace=50, deadline=DEADLINE)) as found:
        found.until(1)
        for actor in (1, 2, 0) * 8:
            found.act(actor)
        assert found.cloud.waiting() == "2 reported, 2 wanted; 50 s of grace for d2"
        assert found.play() == fedavg({1: {"d0": 10, "d1": 20, "d2": 30}})


def test_only_devices_with_the_tag_and_the_memory_are_waited_for_and_train() -> None:
    able = {"d0": CAMERA, "d1": Ability(("camera",), 256), "d2": Ability(("line-3",), 512), "d3": CAMERA}
    rounds = Rounds(total=2, devices=2, deadline=DEADLINE, tags=("camera",), memory_mib=512)
    idle = Unwilling(AssertionError("trained all the same"))
    with world(devices=3, rounds=rounds, abilities=able, trainers={"d1": idle, "d2": idle}) as found:
        for step in range(20):
            found.act(step % 4)
        assert found.cloud.waiting() == "1 of 2 devices are there with the tag camera and 512 MiB of memory"
        found.devices = 4
        found.device_starts("d3")
        chosen = {"d0": 10, "d3": 40}
        assert found.play() == fedavg({1: chosen, 2: chosen})
        assert [record.called for record in found.records] == [2, 2]
        assert found.now < DEADLINE


def test_an_update_of_a_device_that_lacks_the_tag_is_refused_but_one_that_was_counted_stays() -> None:
    able = {"d0": CAMERA, "d1": CAMERA, "d2": Ability()}
    rounds = Rounds(total=1, devices=2, deadline=DEADLINE, tags=("camera",))
    with world(rounds=rounds, abilities=able) as found:
        found.until(1)
        found.hub.publish(TOPICS.update("d2"), split(Update(1, "d2", 30, "float32", bytes(160)))[0], retain=False)
        bus = found.hub.connect()
        bus.subscribe(TOPICS.receipt("d2"))
        found.act(0)
        (receipt,) = [decode(Receipt, payload) for _, payload in bus.deliveries(0)]
        assert (receipt.outcome, receipt.reason) == ("refused", "the task needs the tag camera")
        for actor in (1, 0) * 8:
            found.act(actor)
        assert found.cloud.progress() == (1, 2, 1)
        found.device_dies("d0")
        found.abilities["d0"] = Ability()
        found.device_starts("d0")
        found.cloud_dies()
        found.cloud_starts()
        found.now += DEADLINE
        found.act(0)
        assert found.cloud.progress() == (1, 2, 1)
        assert found.play() == fedavg({1: {"d0": 10, "d1": 20}})


def test_an_aggregator_that_is_started_anew_in_each_round_calls_the_same_cohorts() -> None:
    rounds = Rounds(total=4, devices=6, cohort=2, over=1, deadline=DEADLINE)
    with world(devices=6, rounds=rounds) as whole:
        wanted = whole.play()
    with world(devices=6, rounds=rounds) as found:
        for number in (1, 2, 3, 4):
            found.until(number)
            found.cloud_dies()
            found.cloud_starts()
        assert found.play() == wanted
