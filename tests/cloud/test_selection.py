"""How large a window is: as many as a cohort takes, never fewer than a quorum, everyone where there are too few."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.selection import target, wanted, window
from fedfleet.cloud.settings import Rounds
from fedfleet.wire.calling import LAP, LAPS, Ability, Needs, ahead
from fedfleet.wire.messages import Blob, Plan, Task

TASK = Task(1, Blob("a" * 64, 10), Blob("b" * 64, 40), Plan())
FLEET = [f"d{i}" for i in range(300)]


def following(rounds: Rounds, before: Task | None, fit: list[str], quorum: int = 1) -> Task:
    start, share = window(rounds, quorum, before, fit)
    return replace(TASK, start=start, share=share)


def called(task: Task, devices: list[str] = FLEET) -> list[str]:
    return [device for device in devices if task.calls(device)]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, LAPS * LAP - 1),
    st.floats(0.01, 0.99),
    st.integers(1, 60),
    st.floats(1, 3),
    st.integers(1, 20),
    st.integers(0, 120),
)
def test_a_cohort_is_called_exactly_or_everyone(
    start: int, share: float, cohort: int, over: float, quorum: int, present: int
) -> None:
    before = replace(TASK, start=start, share=share)
    rounds = Rounds(cohort=max(cohort, quorum), over=over, quorum=quorum)
    task = following(rounds, before, FLEET[:present], quorum)
    assert task.start == before.next_start
    if task.window < LAP:
        assert len(called(task, FLEET[:present])) == wanted(rounds, quorum) <= present
    else:
        assert sum(ahead(task.start, device) < LAP for device in FLEET[:present]) <= wanted(rounds, quorum)
        assert called(task) == FLEET


@settings(deadline=None, max_examples=60)
@given(st.integers(0, LAPS * LAP - 1), st.floats(1e-12, 1), st.integers(1, 20), st.integers(0, 40))
def test_a_share_is_what_was_asked_for_unless_it_calls_less_than_a_quorum(
    start: int, share: float, quorum: int, present: int
) -> None:
    before = replace(TASK, start=start)
    task = following(Rounds(share=share), before, FLEET[:present], quorum)
    assert task.start == before.next_start
    assert task.window >= round(share * LAP)
    assert task.share * LAP == task.window
    found = len(called(task, FLEET[:present]))
    assert found >= min(quorum, present)
    if task.window > max(round(share * LAP), 1):
        assert found == min(quorum, present) or task.window == LAP


def test_every_device_of_a_fleet_that_stays_has_its_turn_in_every_lap() -> None:
    rounds, calls, task, sizes = Rounds(cohort=25, over=1.2), Counter(dict.fromkeys(FLEET, 0)), None, set()
    for _ in range(100):
        task = following(rounds, task, FLEET)
        calls.update(called(task))
        sizes.add(len(called(task)))
    assert sizes == {30}
    assert set(calls.values()) <= {9, 10, 11}


def test_a_restart_and_an_abandoned_round_go_on_in_the_lap() -> None:
    rounds = Rounds(share=0.25)
    first = following(rounds, None, FLEET)
    assert (first.start, first.share) == (0, 0.25)
    second = following(rounds, first, FLEET)
    assert (second.start, second.share) == (LAP // 4, 0.25)
    assert set(called(first)).isdisjoint(called(second))


def test_of_those_that_lack_what_is_needed_none_is_counted_for_the_cohort() -> None:
    needs, rounds = Needs(("camera",)), Rounds(cohort=5, over=1)
    fit = FLEET[::10]
    start, share = window(rounds, 1, None, fit)
    task = replace(TASK, start=start, share=share, needs=needs)
    found = [device for device in FLEET if task.calls(device, Ability(("camera",) if device in fit else ()))]
    assert len(found) == 5
    assert len(called(task)) > 20


@pytest.mark.parametrize(
    ("rounds", "quorum", "full", "calls"),
    [
        (Rounds(), 3, 0, 0),
        (Rounds(cohort=10), 1, 10, 13),
        (Rounds(cohort=100, over=1.1), 1, 100, 110),
        (Rounds(cohort=3), 1, 3, 4),
        (Rounds(cohort=3, over=1), 1, 3, 3),
        (Rounds(buffer=10), 1, 10, 0),
        (Rounds(cohort=3), 5, 5, 7),  # a strategy's rule takes so many
    ],
)
def test_so_many_are_called_for_so_many_updates(rounds: Rounds, quorum: int, full: int, calls: int) -> None:
    assert (target(rounds, quorum), wanted(rounds, quorum)) == (full, calls)
