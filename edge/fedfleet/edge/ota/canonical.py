"""Canonical JSON, what signatures of TUF metadata are over: as python-tuf and securesystemslib make it.

Keys in order, no white space, only `"` and backslash escaped, no numbers but whole ones.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from fedfleet.wire.errors import ReleaseError


def encode(value: Any) -> bytes:
    """Return the canonical form of what `decode` has read. Raises ReleaseError."""
    try:
        return _text(value).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise ReleaseError(f"metadata that has no canonical form: {error}") from None


def decode(data: bytes) -> Any:
    """Return the JSON value in `data`: no key twice, no fractions, no NaN. Raises ReleaseError."""
    try:
        return DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"metadata that is not JSON: {error}") from None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(key)}:{_text(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return json.dumps(value)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:32]} is no whole number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


DECODER = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse, object_pairs_hook=_unique)
