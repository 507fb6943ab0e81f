"""What `tff:FACTORY` names: something of TFF's, or a function of the user's own, with simple arguments by name."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.wire.errors import SettingsError

FORM = re.compile(r"(?:(?P<file>[^()+]+\.py):)?(?P<name>[A-Za-z]\w*(?:\.[A-Za-z]\w*)*)(?:\((?P<given>[^()]*)\))?")
MOST = 500
WRITE = "write tff:NAME, tff:NAME(ARGUMENT=VALUE,...) or tff:FILE.py:FUNCTION"
Value = bool | int | float | str | None


@dataclass(frozen=True)
class Factory:
    """The `name` in tff.aggregators or tff.learning, or the function in `file`, and what it is called with."""

    name: str
    file: str = ""
    given: dict[str, Value] = field(default_factory=dict)


def factory(text: str, base: Path = Path()) -> Factory:
    """Return what `text` names, the file relative to `base`; raises SettingsError that says how to write it."""
    found = FORM.fullmatch(text) if len(text) <= MOST else None
    if found is None:
        raise SettingsError(f"tff:{text[:32]}: {WRITE}")
    name, file = found["name"], found["file"]
    return Factory(name, str(base / file) if file else "", _arguments(name, found["given"] or ""))


def _arguments(name: str, text: str) -> dict[str, Value]:
    """Return the arguments in `text`, as they stand between the brackets of a call."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError):
        call = None
    if not isinstance(call, ast.Call) or call.args:
        raise SettingsError(f"tff:{name}({text[:32]}): {WRITE}")
    given: dict[str, Value] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in given:
            raise SettingsError(f"tff:{name}({text[:32]}): each argument by its name, and once")
        given[keyword.arg] = _value(name, keyword.arg, keyword.value)
    return given


def _value(name: str, key: str, node: ast.expr) -> Value:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = ()
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise SettingsError(
            f"tff:{name}: {key} must be a number, a text, True, False or None; for more write a function of your own, "
            "tff:FILE.py:FUNCTION"
        )
    return value
