"""Checks that depend on each other, so that one broken thing gives one diagnosis; values and text, no I/O.

A check whose needs are not met is skipped and says so, and what needs it is skipped as well. One that has nothing to
look at is skipped too, and holds nothing up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
FORMAT = 1
MARKS = {OK: "ok     ", FAILED: "FAILED ", SKIPPED: "skipped"}


class Cause(NamedTuple):
    """What may be wrong: a name that never changes, what it means, and the fix, with {places} for what was found."""

    name: str
    means: str
    fix: str


class Finding(NamedTuple):
    """What a check came to: outcome, what was seen, and if it failed cause and fix; `blocks` who needs it."""

    outcome: str
    seen: str = ""
    cause: str = ""
    fix: str = ""
    blocks: bool = False


class Check(NamedTuple, Generic[T]):
    """One thing to look at, what must be well before, and all that may be found wrong."""

    name: str
    needs: tuple[str, ...]
    look: Callable[[T], Finding]
    causes: tuple[Cause, ...]


def fine(seen: str) -> Finding:
    """All is well, as far as `seen` says."""
    return Finding(OK, seen)


def failed(cause: Cause, seen: str, **places: object) -> Finding:
    """Something is to be mended; `places` fill the fix."""
    return Finding(FAILED, " ".join(seen.split()), cause.name, cause.fix.format(**places), blocks=True)


def beside(why: str) -> Finding:
    """There is nothing to look at; what comes after goes on."""
    return Finding(SKIPPED, why)


def examine(checks: Sequence[Check[T]], subject: T, before: Mapping[str, Finding]) -> dict[str, Finding]:
    """Return what all `checks` came to, in their order, after what was found `before`."""
    found = dict(before)
    for check in checks:
        found[check.name] = _blocked(check.needs, found) or check.look(subject)
    return found


def nothing_more(checks: Sequence[Check[T]], before: Mapping[str, Finding]) -> dict[str, Finding]:
    """Return `before`, and all `checks` skipped for it: there is no subject to look at."""
    blocked = Finding(SKIPPED, f"needs {', '.join(before)}", blocks=True)
    return {**before, **{check.name: blocked for check in checks}}


def code(found: Mapping[str, Finding]) -> int:
    """The exit code: 0 if nothing is to be mended, else 2."""
    return 2 if any(finding.outcome == FAILED for finding in found.values()) else 0


def as_json(side: str, found: Mapping[str, Finding]) -> str:
    """One JSON object, stable: `docs/doctor.md` has its fields."""
    checks = [
        {"check": name, "outcome": each.outcome, "seen": each.seen, "cause": each.cause, "fix": each.fix}
        for name, each in found.items()
    ]
    whole: dict[str, Any] = {"doctor": FORMAT, "side": side, "well": code(found) == 0, "checks": checks}
    return json.dumps(whole, indent=1)


def as_text(found: Mapping[str, Finding]) -> str:
    """A line for each check, below a failed one the fix, and at the end how many there are to mend."""
    wide = max(map(len, found))
    lines = list[str]()
    for name, each in found.items():
        lines.append(f"{MARKS[each.outcome]} {name:{wide}}  {each.seen}")
        if each.outcome == FAILED:
            lines.append(f"{'':{wide + 8}}  -> {each.fix}  [{each.cause}]")
    broken = sum(each.outcome == FAILED for each in found.values())
    lines.append(f"{broken} to mend" if broken else "nothing to mend")
    return "\n".join(lines)


def _blocked(needs: tuple[str, ...], found: Mapping[str, Finding]) -> Finding | None:
    lacking = [name for name in needs if found[name].blocks]
    return Finding(SKIPPED, f"needs {', '.join(lacking)}", blocks=True) if lacking else None
