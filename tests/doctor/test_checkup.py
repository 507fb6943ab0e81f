"""The order of checks: one broken thing is one failure, whatever hangs on it."""

from __future__ import annotations

import json

from fedfleet.wire.doctor.checkup import (
    Cause,
    Check,
    Finding,
    as_json,
    as_text,
    beside,
    code,
    examine,
    failed,
    fine,
    nothing_more,
)

FLAT = Cause("battery-flat", "there is no charge", "charge it to {volts} V")


def checks(*, battery: Finding, lamp: Finding) -> tuple[Check[str], ...]:
    return (
        Check("battery", (), lambda _: battery, (FLAT,)),
        Check("lamp", ("battery",), lambda _: lamp, ()),
        Check("light", ("lamp",), lambda subject: fine(f"{subject} is lit"), ()),
    )


GOOD = fine("12 V")
BAD = failed(FLAT, "it has\n 3 V", volts=12)
NO_LAMP = beside("there is no lamp")


def test_all_is_looked_at_in_order() -> None:
    found = examine(checks(battery=GOOD, lamp=fine("whole")), "the yard", {})
    assert list(found) == ["battery", "lamp", "light"]
    assert found["light"].seen == "the yard is lit"
    assert code(found) == 0


def test_what_hangs_on_a_failure_is_skipped_to_the_last_and_never_looked_at() -> None:
    found = examine(checks(battery=BAD, lamp=fine("never asked")), "the yard", {})
    assert [each.outcome for each in found.values()] == ["failed", "skipped", "skipped"]
    assert [found["lamp"].seen, found["light"].seen] == ["needs battery", "needs lamp"]
    assert code(found) == 2


def test_what_is_not_there_holds_nothing_up() -> None:
    found = examine(checks(battery=GOOD, lamp=NO_LAMP), "the yard", {})
    assert [each.outcome for each in found.values()] == ["ok", "skipped", "ok"]
    assert code(found) == 0


def test_without_a_subject_all_is_skipped() -> None:
    found = nothing_more(checks(battery=GOOD, lamp=GOOD), {"settings": BAD})
    assert [each.outcome for each in found.values()] == ["failed", "skipped", "skipped", "skipped"]
    assert found["light"].seen == "needs settings"


def test_json_has_these_fields_and_no_others() -> None:
    found = examine(checks(battery=BAD, lamp=GOOD), "the yard", {})
    whole = json.loads(as_json("device", found))
    assert {key: whole[key] for key in ("doctor", "side", "well")} == {"doctor": 1, "side": "device", "well": False}
    assert set(whole) == {"doctor", "side", "well", "checks"}
    assert whole["checks"][0] == {
        "check": "battery",
        "outcome": "failed",
        "seen": "it has 3 V",
        "cause": "battery-flat",
        "fix": "charge it to 12 V",
    }
    assert whole["checks"][1] == {
        "check": "lamp", "outcome": "skipped", "seen": "needs battery", "cause": "", "fix": ""
    }  # fmt: skip


def test_text_has_the_fix_below_what_failed_and_counts_at_the_end() -> None:
    lines = as_text(examine(checks(battery=BAD, lamp=GOOD), "the yard", {})).splitlines()
    assert lines[:2] == ["FAILED  battery  it has 3 V", "                 -> charge it to 12 V  [battery-flat]"]
    assert lines[-1] == "1 to mend"
    assert as_text({"battery": GOOD}).splitlines()[-1] == "nothing to mend"
