"""Pauses between connections: spread out, bounded, and forgotten only after a link that held."""

from __future__ import annotations

import random

import pytest

from fedfleet.wire.backoff import HELD, LONGEST, LONGEST_REFUSED, SHORTEST, Backoff


def longest() -> Backoff:
    return Backoff(lambda: 1.0)


def test_the_window_doubles_up_to_a_minute() -> None:
    backoff = longest()
    assert [backoff.pause(0, refused=False) for _ in range(6)] == [4, 8, 16, 32, 60, 60]


def test_refusals_go_on_up_to_ten_minutes() -> None:
    backoff = longest()
    pauses = [backoff.pause(0, refused=True) for _ in range(10)]
    assert pauses == [4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert LONGEST_REFUSED >= 300
    assert backoff.pause(0, refused=False) == LONGEST


@pytest.mark.parametrize("failures", [0, 5, 20])
def test_pauses_fill_their_whole_window_evenly(failures: int) -> None:
    drawn = []
    for seed in range(400):
        backoff = Backoff(random.Random(seed).random)
        for _ in range(failures):
            backoff.pause(0, refused=False)
        drawn.append(backoff.pause(0, refused=False))
    window = min(LONGEST, SHORTEST * 2.0**failures)
    quarters = [sum(quarter <= 4 * pause / window < quarter + 1 for pause in drawn) for quarter in range(4)]
    assert sum(quarters) == 400
    assert min(quarters) > 60  # a hundred each are expected


def test_a_link_that_held_makes_the_next_pause_short() -> None:
    backoff = longest()
    for _ in range(9):
        backoff.pause(0, refused=False)
    assert backoff.pause(HELD - 0.1, refused=False) == 60
    assert backoff.pause(HELD, refused=False) == SHORTEST


def test_links_that_are_made_and_lost_at_once_back_off_too() -> None:
    backoff = longest()
    assert [backoff.pause(0.5, refused=False) for _ in range(7)][-1] == 60


def test_two_clients_with_one_name_do_not_throw_each_other_out_for_ever_at_full_speed() -> None:
    draw = random.Random(7)
    clients = [Backoff(draw.random), Backoff(draw.random)]
    now, holder, since, connections = 0.0, 0, 0.0, 0
    due = clients[1].pause(0, refused=False)
    while now < 3600:  # the one that is out comes back when its pause is over, and the other one goes
        now = due
        other = 1 - holder
        due = now + clients[holder].pause(now - since, refused=False)
        holder, since, connections = other, now, connections + 1
    assert connections < 200  # without the rule of HELD: thousands


def test_thousands_of_failures_stay_numbers() -> None:
    backoff = longest()
    assert {backoff.pause(0, refused=False) for _ in range(5000)} == {4, 8, 16, 32, 60}
