"""`docs/doctor.md` has every check and every cause, in the words of the code; and the checks stand in an order that holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedfleet.cloud.doctor import checks as cloud
from fedfleet.edge.doctor import checks as device
from fedfleet.wire.doctor.checkup import Check

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
SIDES: dict[str, tuple[Check[Any], ...]] = {
    "device": (device.SETTINGS, *device.CHECKS),
    "aggregator": (cloud.WITHIN, *cloud.AGGREGATOR),
    "authority": (cloud.FOLDER, *cloud.AUTHORITY),
}


def rows() -> list[str]:
    """The lines of the page's table."""
    found = dict[tuple[str, ...], list[str]]()
    for side, checks in SIDES.items():
        for check in checks:
            for cause in check.causes:
                fix = re.sub(r"\{(\w+)\}", lambda place: place[1].upper(), cause.fix)
                found.setdefault((check.name, f"`{cause.name}`", cause.means, fix), []).append(side)
    return [f"| {' | '.join((', '.join(sides), *row))} |" for row, sides in found.items()]


def test_the_page_has_the_table_of_the_code_line_by_line() -> None:
    lines = PAGE.read_text().splitlines()
    start = lines.index("| where | check | cause | what is wrong | what to do |") + 2
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    assert lines[start:end] == rows()


def test_the_page_has_the_checks_of_each_side_in_their_order() -> None:
    text = PAGE.read_text()
    for side, checks in SIDES.items():
        assert f"- {side}: {', '.join(check.name for check in checks)}" in " ".join(text.split())


@pytest.mark.parametrize("side", SIDES)
def test_what_a_check_needs_comes_before_it(side: str) -> None:
    seen = set[str]()
    for check in SIDES[side]:
        assert set(check.needs) <= seen
        assert check.name not in seen
        seen.add(check.name)


@pytest.mark.parametrize("side", SIDES)
def test_a_cause_stands_with_one_check_alone(side: str) -> None:
    names = [cause.name for check in SIDES[side] for cause in check.causes]
    shared = {name for name in names if names.count(name) > 1}
    # a broker of TLS 1.2 refuses a certificate in the handshake, one of TLS 1.3 after it
    assert all(name.startswith("refused-") or name == "pki-broken" for name in shared)
