"""How updates are combined, where it is not by their mean: rules that hold against devices that err or lie.

Each is written as its form says, as in `median`, `trimmed:0.1` or `multikrum:2,5`, and is a file and a line in `RULES`.
None but `clip` and `filter`, which are means, looks at the number of examples: that is only what a device claims. What
`tff` does with it is up to the factory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from fedfleet.cloud.rules.coordinates import median, trimmed
from fedfleet.cloud.rules.geometric import geomedian
from fedfleet.cloud.rules.krum import bulyan, krum, multikrum
from fedfleet.cloud.rules.norms import clip, filtered
from fedfleet.cloud.rules.rule import Rule
from fedfleet.cloud.rules.tff import tff
from fedfleet.cloud.sums import Mean
from fedfleet.wire.errors import SettingsError

__all__ = ["RULES", "Rule", "mean", "rule"]

RULES: dict[str, tuple[str, Callable[..., Rule]]] = {
    "median": ("median", median),
    "trimmed": ("trimmed:SHARE", trimmed),
    "krum": ("krum:BAD", krum),
    "multikrum": ("multikrum:BAD,KEPT", multikrum),
    "bulyan": ("bulyan:BAD", bulyan),
    "geomedian": ("geomedian", geomedian),
    "clip": ("clip:NORM", clip),
    "filter": ("filter:NORM", filtered),
    "tff": ("tff:FACTORY", tff),
}

COUNT = (re.compile(r"[1-9][0-9]{0,3}"), int, "from 1 to 9999")
NUMBERS: dict[str, tuple[re.Pattern[str], Callable[[str], float | Fraction], str]] = {
    "SHARE": (re.compile(r"0\.(?!0+$)[0-4][0-9]{0,3}"), Fraction, "from 0.0001 to 0.4999"),
    "BAD": COUNT,
    "KEPT": COUNT,
    "NORM": (re.compile(r"(?![0.]+$)[0-9]{1,6}(\.[0-9]{1,6})?"), float, "above 0"),
}


def mean() -> Rule:
    """Return the mean weighted by examples."""
    return Rule(Mean.empty)


def rule(text: str, base: Path = Path()) -> Rule:
    """Return the rule that `text` names, with its numbers; raises SettingsError that says how to write it.

    A file of the user's in it is relative to `base`.
    """
    name, _, given = text.partition(":")
    form, make = RULES[name]
    if make is tff:
        return tff(text, base)
    kinds = form.partition(":")[2].split(",") if ":" in form else []
    values = given.split(",") if text != name else []
    if len(values) != len(kinds):
        raise SettingsError(f"strategy {text[:32]!r}: write it as {form}")
    return make(*(_number(text, form, kind, value) for kind, value in zip(kinds, values)))


def _number(text: str, form: str, kind: str, value: str) -> float | Fraction:
    pattern, read, allowed = NUMBERS[kind]
    if not pattern.fullmatch(value):
        raise SettingsError(f"strategy {text[:32]!r}: write it as {form}, {kind} {allowed}")
    return read(value)
