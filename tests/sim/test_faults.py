"""Rates of faults: what may be written, and that each draw stands alone."""

from __future__ import annotations

import pytest

from fedfleet.sim.virtual.faults import KNOWN, SLOW, SPEED, Faults, luck, parse
from fedfleet.wire.errors import SettingsError

NAMES = [f"d{i}" for i in range(2000)]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("none", Faults()),
        ("storm", KNOWN["storm"]),
        ("dropout=0.3,straggler=0.2", Faults(dropout=0.3, straggler=0.2)),
        ("none,nan=0.5", Faults(nan=0.5)),
    ],
)
def test_faults_are_a_name_or_rates_or_both(text: str, faults: Faults) -> None:
    assert parse(text) == faults


def test_a_rate_changes_what_the_name_says() -> None:
    assert parse("storm,kill=0").kill == 0
    assert parse("storm,kill=0").cut == KNOWN["storm"].cut


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gale", "unknown faults 'gale'; known: none, field, storm"),
        ("", "unknown faults ''"),
        ("rain=1", "unknown fault 'rain'; known: delay, training"),
        ("kill=often", "fault kill: 'often' is no number; write kill=0.1"),
        ("kill=2", "faults: kill must be 0 to 1"),
        ("kill=nan", "faults: kill must be 0 to 1"),
        ("away=1", "faults: away must be below 1"),
        ("delay=4000", "faults: delay must be 0 to 3600"),
        ("sign=0.6,nan=0.6", "faults: sign \\+ scale"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse(text)


def test_draws_hang_on_every_word_and_on_nothing_else() -> None:
    words = [(0, "up", 1, "d1"), (1, "up", 1, "d1"), (0, "down", 1, "d1"), (0, "up", 2, "d1"), (0, "up", 1, "d2")]
    drawn = [luck(*found) for found in words]
    assert len({*drawn}) == len(words)
    assert [luck(*found) for found in reversed(words)] == drawn[::-1]
    assert all(0 <= value < 1 for found in drawn for value in found)


def test_shares_are_shares() -> None:
    faults = Faults(sign=0.1, nan=0.2, labels=0.2, reverse=0.1)
    kinds = [faults.attack(5, name) for name in NAMES]
    for kind, share in (("sign", 0.1), ("nan", 0.2), ("labels", 0.2), ("reverse", 0.1), ("", 0.4)):
        assert kinds.count(kind) / len(NAMES) == pytest.approx(share, abs=0.04)
    assert {"scale", "free"}.isdisjoint(kinds)


def test_a_device_has_a_speed_and_some_rounds_in_which_it_straggles() -> None:
    quick, slow = Faults(training=10.0), Faults(training=10.0, straggler=0.2)
    for name in NAMES[:50]:
        assert len({quick.seconds(0, name, round_) for round_ in range(1, 20)}) == 1
        assert SPEED[0] * 10 <= quick.seconds(0, name, 1) <= SPEED[1] * 10
    ratios = [slow.seconds(0, name, 3) / quick.seconds(0, name, 3) for name in NAMES]
    assert {*ratios} == {1.0, SLOW}
    assert ratios.count(SLOW) / len(NAMES) == pytest.approx(0.2, abs=0.04)
