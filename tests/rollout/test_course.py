"""The course of a rollout over a simulated fleet: how far a bad version comes, what opens the next group, the way back."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from rollouts import NEW, OLD, Board, fleet

from fedfleet.cloud.rollout import course
from fedfleet.cloud.rollout.course import Group, Handed, Report, Rollout
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch

FIVE = tuple(Group((f"g{number}",)) for number in range(1, 6))


def run(rollout: Rollout, boards: list[Board], steps: int = 40) -> Rollout:
    """Let all devices and the rollout take turns."""
    for _ in range(steps):
        for board in boards:
            board.step(course.handed(rollout))
        rollout = course.advanced(rollout, reports(rollout, boards))
    return rollout


def reports(rollout: Rollout, boards: list[Board]) -> dict[str, Report]:
    return {board.name: board.report(rollout.version) for board in boards}


def start(*groups: Group) -> Rollout:
    return course.begun(Rollout(NEW, OLD, groups))


def having(boards: list[Board], version: str) -> set[str]:
    return {board.tags[0] for board in boards if board.version == version}


def test_a_good_version_reaches_everyone_group_by_group() -> None:
    boards, rollout, seen = fleet(), start(*FIVE), []
    for _ in range(40):
        rollout = run(rollout, boards, 1)
        seen.append(having(boards, NEW))
    assert rollout.state == "done"
    assert having(boards, OLD) == set()
    assert sorted(map(len, seen)) == [len(each) for each in seen]  # never two groups at a time, never one fewer
    assert {frozenset(each) for each in seen} == {frozenset(f"g{n}" for n in range(1, k + 1)) for k in range(1, 6)}


def test_a_version_that_fails_on_a_fifth_stops_in_the_first_group_and_is_taken_back() -> None:
    boards, rollout = fleet(bad_share=0.2), start(*FIVE)
    exposed = set[str]()
    for _ in range(40):
        rollout = run(rollout, boards, 1)
        exposed |= {board.name for board in boards if board.version == NEW}
    assert rollout.state == "aborted"
    assert rollout.reason == "2 of 10 devices failed in group g1: d1-0: it cannot train"
    assert exposed == {board.name for board in boards if board.tags == ("g1",)}
    assert having(boards, NEW) == set()  # the eight on which it was well went back, too
    assert course.handed(rollout) == Handed(OLD, ("g1",), 1.0)


def test_failures_below_the_error_threshold_do_not_stop_it_and_success_is_counted_without_them() -> None:
    boards = fleet(each=20, bad_share=0.05)
    rollout = run(start(*(replace(group, success=0.9, error=0.1) for group in FIVE)), boards)
    assert rollout.state == "done"
    assert sum(board.version == OLD for board in boards) == 5


def test_a_group_that_is_not_well_enough_holds_the_next_one_up() -> None:
    boards = fleet()
    boards[3].bad = (NEW,)
    rollout = run(start(*(replace(group, success=1.0, error=0.5) for group in FIVE)), boards)
    assert (rollout.state, rollout.opened) == ("running", 1)
    assert having(boards, NEW) == {"g1"}


def test_a_group_with_approval_waits_for_it() -> None:
    boards = fleet()
    rollout = run(start(FIVE[0], replace(FIVE[1], approve=True), *FIVE[2:]), boards)
    assert (rollout.state, rollout.opened, rollout.reason) == ("waiting", 1, "group g2 waits for approval")
    assert having(boards, NEW) == {"g1"}
    rollout = run(course.approved(rollout), boards)
    assert rollout.state == "done"


def test_approval_of_the_first_group_hands_nothing_out_before() -> None:
    rollout = start(replace(FIVE[0], approve=True))
    assert course.handed(rollout) is None
    assert course.handed(course.approved(rollout)) == Handed(NEW, ("g1",), 1.0)


def test_while_it_is_paused_no_group_is_opened_and_what_fails_stops_it_all_the_same() -> None:
    boards = fleet()
    rollout = run(course.paused(start(*FIVE)), boards)
    assert (rollout.state, rollout.opened) == ("running", 1)
    assert run(course.resumed(rollout), boards).state == "done"
    boards = fleet(bad_share=0.2)
    assert run(course.paused(start(*FIVE)), boards).state == "aborted"


def test_what_goes_bad_in_an_open_group_stops_the_later_ones() -> None:
    boards = fleet()
    rollout = run(start(FIVE[0], replace(FIVE[1], approve=True)), boards)
    for board in boards[:2]:
        board.version, board.word, board.why = OLD, "back", "it leaks"
    rollout = run(rollout, boards, 1)
    assert rollout.reason == "2 of 10 devices failed in group g1: d1-0: it leaks"


def test_an_abort_by_hand_takes_it_back_from_all_open_groups() -> None:
    boards = fleet()
    rollout = run(start(*FIVE), boards, 6)
    assert rollout.opened >= 2
    rollout = run(course.stopped(rollout, "the operator said so"), boards)
    assert having(boards, NEW) == set()
    assert (rollout.state, rollout.reason) == ("aborted", "the operator said so")


def test_shares_of_the_fleet_keep_those_of_the_narrower_ones() -> None:
    boards = [Board(f"d{number}", ()) for number in range(200)]
    rollout, seen = start(Group(share=0.1), Group(share=0.5), Group()), [0]
    before = set[str]()
    for _ in range(20):
        rollout = run(rollout, boards, 1)
        having_it = {board.name for board in boards if board.version == NEW}
        assert before <= having_it
        before = having_it
        seen.append(len(having_it))
    assert rollout.state == "done"
    stages = sorted(set(seen) - {0})
    assert len(stages) == 3
    assert 10 <= stages[0] <= 30
    assert 80 <= stages[1] <= 120
    assert stages[2] == 200


def test_a_share_is_taken_back_from_all_for_another_version_draws_other_devices() -> None:
    rollout = course.stopped(start(Group(share=0.1)), "no")
    assert course.handed(rollout) == Handed(OLD, (), 1.0)


def test_a_group_in_which_there_is_nobody_is_passed_but_an_unknown_fleet_is_not() -> None:
    rollout = start(Group(("nobody",)), *FIVE)
    assert course.advanced(rollout, {}).opened == 1
    assert course.advanced(rollout, reports(rollout, fleet())).opened == 2


def test_a_device_of_two_groups_counts_in_the_first() -> None:
    rollout = start(Group(("g1",)), Group(("g2",)))
    counts = course.counted(rollout, {"d": Report(("g2", "g1"), NEW, "good")})
    assert [count.devices for count in counts] == [1, 0]


def test_a_device_on_trial_is_exposed_and_not_well() -> None:
    report = Report(("g1",), NEW, "trial")
    assert not report.well(NEW)
    assert report.exposed(NEW)


def test_one_that_would_not_have_it_has_failed_and_was_not_exposed() -> None:
    report = Report(("g1",), OLD, "refused", "there is none for this board")
    assert report.failed
    assert not report.exposed(NEW)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_devices_do_no_group_is_opened_before_the_one_before_is_well(seed: int) -> None:
    """Random words of random devices: what was opened never shrinks, and never outruns the thresholds."""
    draw = random.Random(seed)
    boards, rollout = fleet(), start(*(replace(group, success=0.8, error=0.3) for group in FIVE))
    for _ in range(300):
        board = draw.choice(boards)
        board.version, board.of, board.word = draw.choice(
            [(NEW, NEW, "trial"), (NEW, NEW, "good"), (NEW, NEW, "good"), (NEW, NEW, "good"), (OLD, NEW, "back")]
        )
        told = reports(rollout, boards)
        after = course.advanced(rollout, told)
        count = course.counted(rollout, told)[rollout.opened - 1]
        if after.opened > rollout.opened:
            assert after.opened == rollout.opened + 1
            assert count.well >= 8
        assert after.opened >= rollout.opened
        assert after.state != "done" or rollout.opened == 5
        rollout = after


def test_orders_that_make_no_sense_are_refused_in_words() -> None:
    running, over = start(*FIVE), course.stopped(start(*FIVE), "no")
    for order, rollout, words in (
        (course.resumed, running, "is not paused"),
        (course.approved, running, "nothing waits for approval"),
        (course.approved, course.paused(start(replace(FIVE[0], approve=True))), "resume it first"),
        (course.paused, over, "is aborted; start another one"),
        (course.resumed, over, "is aborted"),
        (course.approved, over, "is aborted"),
    ):
        with pytest.raises(SettingsError, match=words):
            order(rollout)


@pytest.mark.parametrize("wrong", [{"success": 0.0}, {"error": 0.0}, {"share": 1.5}, {"tags": ("Not One",)}])
def test_a_group_must_make_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(Mismatch):
        Group(**wrong)  # type: ignore[arg-type]


def test_shares_must_grow() -> None:
    with pytest.raises(Mismatch, match="must grow"):
        start(Group(share=0.5), Group(share=0.1))
