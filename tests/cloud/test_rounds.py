"""The rules of a round, without a bus and without a clock."""

from __future__ import annotations

import numpy as np
import pytest

from fedfleet.cloud.rounds import Round
from fedfleet.cloud.sums import Mean
from fedfleet.wire.messages import Blob, Plan, Task, Update

P = 4
DEADLINE = 60.0


def task(number: int = 3, share: float = 1.0) -> Task:
    return Task(number, Blob("a" * 64, 9), Blob("b" * 64, 4 * P), Plan(), share=share, deadline=DEADLINE)


def update(device: str, value: float = 1.0, examples: int = 10, number: int = 3, codec: str = "float32") -> Update:
    return Update(number, device, examples, codec, np.full(P, value, "<f4").tobytes())


def fresh(*present: str, quorum: int = 2, share: float = 1.0) -> tuple[Round, Mean]:
    mean = Mean.empty(P)
    return Round(task(share=share), P, mean, quorum, present), mean


def test_it_closes_when_all_have_reported() -> None:
    found, mean = fresh("a", "b", "c")
    for device in "ab":
        assert found.take(update(device)).outcome == "counted"
        assert found.verdict(1).state == "open"
    assert found.verdict(1).reason == "2 reported, quorum 2; waiting for c"
    found.take(update("c", 4.0))
    assert found.verdict(1) == ("closed", "all 3 present devices that were called have reported")
    assert mean.value().tolist() == [2.0] * P


def test_a_quorum_that_is_not_reached_is_waited_for_even_with_nobody_there() -> None:
    found, _ = fresh("a")
    found.take(update("a"))
    assert found.verdict(1) == ("open", "1 reported, quorum 2; waiting for more devices")


def test_the_deadline_closes_with_a_quorum_and_abandons_without() -> None:
    found, _ = fresh("a", "b", "c")
    found.take(update("a"))
    assert found.verdict(DEADLINE - 0.1).state == "open"
    assert found.verdict(DEADLINE) == ("abandoned", "deadline of 60 s with 1 reported, quorum 2")
    found.take(update("b"))
    assert found.verdict(DEADLINE) == ("closed", "deadline of 60 s with 2 of 3 reported")


def test_a_latecomer_is_called_all_the_same() -> None:
    found, _ = fresh("a", quorum=1)
    found.join("b")
    found.take(update("a"))
    assert found.verdict(1).state == "open"
    found.take(update("b"))
    assert found.verdict(1).state == "closed"
    found.join("b")  # its birth after a lost link: it has reported already
    assert found.verdict(1).state == "closed"


def test_nothing_is_kept_of_a_difference_that_is_in_the_sum() -> None:
    found, _ = fresh("a", "b")
    found.take(update("a"))
    assert found.counted == {"a": (10, {})}


def test_a_lost_device_is_not_waited_for_until_it_is_back() -> None:
    found, mean = fresh("a", "b", quorum=1)
    found.take(update("a", 1.0))
    found.lose("b")
    assert found.verdict(1).state == "closed"
    found.join("b")
    assert found.verdict(1).state == "open"
    found.lose("b")
    assert found.take(update("b", 3.0)).outcome == "counted"
    assert mean.value().tolist() == [2.0] * P


def test_a_device_that_declined_is_not_waited_for_even_when_it_is_back() -> None:
    found, mean = fresh("a", "b", quorum=1)
    found.decline("b", "no examples yet")
    found.join("b")
    found.take(update("a", 1.0))
    reason = "all 1 present devices that were called have reported; 1 declined, b: no examples yet"
    assert found.verdict(1) == ("closed", reason)
    assert found.take(update("b", 3.0)).outcome == "counted"
    assert "declined" not in found.verdict(1).reason
    assert mean.value().tolist() == [2.0] * P


def test_why_all_declined_is_visible_while_it_is_open_and_when_it_is_abandoned() -> None:
    found, _ = fresh("a", "b")
    found.decline("b", "bad program\nby signal 11")
    found.decline("a", "z")
    assert found.verdict(1).reason == "0 reported, quorum 2; waiting for more devices; 2 declined, a: z"
    assert found.verdict(DEADLINE).reason == "deadline of 60 s with 0 reported, quorum 2; 2 declined, a: z"
    assert found.declined["b"] == "bad program by signal 11"


def test_the_same_device_counts_once_even_with_another_update() -> None:
    found, mean = fresh("a", "b")
    found.take(update("a", 1.0))
    for value in (1.0, 9.0):
        assert found.take(update("a", value)).outcome == "counted"
    found.take(update("b", 2.0, examples=30))
    assert mean.value().tolist() == [1.75] * P
    assert mean.examples == 40


def refusals() -> list[tuple[Update, str]]:
    nan, inf = (np.array([0, value, 0, 0], "<f4").tobytes() for value in (np.nan, -np.inf))
    return [
        (update("a", number=2), "round 2 is over, the task is round 3"),
        (update("a", number=4), "round 4 is over, the task is round 3"),
        (Update(3, "a", 10, "float32", b"1234"), "update has 4 bytes, but 4 parameters take 16"),
        (Update(3, "a", 10, "float32", nan), "update has NaN or infinity in it"),
        (Update(3, "a", 10, "float32", inf), "update has NaN or infinity in it"),
        (update("a", codec="zip"), "unknown codec 'zip'; known: float32"),
        (update("a", 1e38), "weights move by too much"),
        (update("a", examples=2**53 - 1), "weights move by too much"),
    ]


@pytest.mark.parametrize(("bad", "reason"), refusals())
def test_a_refusal_says_why_and_leaves_the_aggregate_alone(bad: Update, reason: str) -> None:
    found, mean = fresh("a", "b")
    found.take(update("b"))
    before = mean.total.tobytes(), mean.examples, mean.bound
    receipt = found.take(bad)
    assert receipt.outcome == "refused"
    assert receipt.round == bad.round
    assert reason in receipt.reason
    assert (mean.total.tobytes(), mean.examples, mean.bound) == before
    assert list(found.counted) == ["b"]


def test_a_device_whose_update_is_refused_is_not_waited_for() -> None:
    found, _ = fresh("a", "b", quorum=1)
    found.take(update("b"))
    found.take(Update(3, "a", 10, "float32", b"1234"))
    found.join("a")
    assert found.verdict(1).state == "closed"
    assert "1 declined, a: update has 4 bytes" in found.verdict(1).reason


def test_a_device_that_is_not_called_is_neither_waited_for_nor_counted() -> None:
    names = [f"d{i}" for i in range(20)]
    called = {name for name in names if task(share=0.4).calls(name)}
    assert 0 < len(called) < 20
    found, mean = fresh(*names, quorum=1, share=0.4)
    assert found.called == called
    stranger = next(name for name in names if name not in called)
    receipt = found.take(update(stranger))
    assert (receipt.outcome, receipt.reason) == ("refused", "the task does not call this device")
    found.decline(stranger, "nothing to do")
    assert found.declined == {}
    assert mean.examples == 0
    for name in called:
        found.take(update(name))
    assert found.verdict(1).state == "closed"


def test_a_round_that_all_have_declined_says_so_and_why() -> None:
    found, _ = fresh("a", "b", quorum=1)
    assert found.refused() == ""
    found.decline("b", "label 7 is none of 3")
    assert found.refused() == ""
    found.lose("a")  # it may be back
    assert found.refused() == ""
    found.decline("a", "no examples yet")
    assert found.refused() == "2 of 2 devices called have declined, a: no examples yet"
    assert found.verdict(1).state == "open"
    found.join("c")
    assert found.refused() == ""
    assert fresh()[0].refused() == ""


def test_a_round_with_an_update_is_not_refused() -> None:
    found, _ = fresh("a", "b", quorum=2)
    found.take(update("a"))
    found.decline("b", "no examples yet")
    assert found.refused() == ""
