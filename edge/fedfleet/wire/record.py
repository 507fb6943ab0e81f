"""Plain mappings (JSON headers, TOML tables) into frozen dataclasses, with every type checked on the way.

One function for both borders: a message header from a peer, where unknown keys are ignored so that newer peers may
say more, and a settings file of the owner, where an unknown key is an error that names it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
NONE = type(None)


class Mismatch(ValueError):
    """A value that does not fit its field; the text names the field by its dotted path."""


def build(cls: type[T], table: object, *, strict: bool, path: str = "") -> T:
    """Return `cls(**table)` with each value checked against its annotation.

    `strict` refuses keys that `cls` does not have. Raises `Mismatch`, also for what `cls.__post_init__` refuses.
    """
    if not isinstance(table, Mapping):
        raise Mismatch(f"{path or 'the top level'} must be a table, not {_kind(table)}")
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if strict and (unknown := next((key for key in table if key not in fields), None)) is not None:
        raise Mismatch(f"unknown setting {_join(path, str(unknown))}; known here: {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _fit(hints[name], table[name], strict, _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise Mismatch(f"{_join(path, name)} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise Mismatch(f"{path + ': ' if path else ''}{error}") from None


def plain(record: object) -> dict[str, Any]:
    """Return a dataclass as a dict of JSON values; the inverse of `build`."""
    return dataclasses.asdict(record)  # type: ignore[call-overload, no-any-return]


def require(holds: bool, text: str) -> None:
    """Raise `Mismatch(text)` unless `holds`: the one-line check of a `__post_init__`."""
    if not holds:
        raise Mismatch(text)


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotations of `cls`, looked up once: that takes longer than all else about a small message."""
    return typing.get_type_hints(cls)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(value: object) -> str:
    return type(value).__name__


def _fit(hint: Any, value: object, strict: bool, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        return _fit_optional(hint, value, strict, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, strict=strict, path=path)
    if origin is tuple:
        return _fit_tuple(typing.get_args(hint)[0], value, strict, path)
    if origin is dict:
        return _fit_dict(typing.get_args(hint)[1], value, strict, path)
    return _fit_scalar(hint, value, path)


def _fit_optional(hint: Any, value: object, strict: bool, path: str) -> Any:
    inner = [option for option in typing.get_args(hint) if option is not NONE]
    return None if value is None else _fit(inner[0], value, strict, path)


def _fit_tuple(item: Any, value: object, strict: bool, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise Mismatch(f"{path} must be a list, not {_kind(value)}")
    return tuple(_fit(item, entry, strict, f"{path}[{i}]") for i, entry in enumerate(value))


def _fit_dict(item: Any, value: object, strict: bool, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Mismatch(f"{path} must be a table, not {_kind(value)}")
    return {str(key): _fit(item, entry, strict, _join(path, str(key))) for key, entry in value.items()}


def _fit_scalar(hint: Any, value: object, path: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        require(math.isfinite(number), f"{path} must be a finite number")
        return number
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise Mismatch(f"{path} must be {hint.__name__}, not {_kind(value)}")
    return value
