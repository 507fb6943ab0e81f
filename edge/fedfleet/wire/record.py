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
    shape = _shape(cls)  # type: ignore[arg-type]
    if strict and (unknown := next((key for key in table if key not in shape), None)) is not None:
        raise Mismatch(f"unknown setting {_join(path, str(unknown))}; known here: {', '.join(shape)}")
    values = {}
    for name, (hint, required) in shape.items():
        if name in table:
            values[name] = _fit(hint, table[name], strict, _join(path, name))
        elif required:
            raise Mismatch(f"{_join(path, name)} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise Mismatch(f"{path + ': ' if path else ''}{error}") from None


def plain(record: Any) -> dict[str, Any]:
    """Return a dataclass as a dict of JSON values; the inverse of `build`."""
    return {name: _plain(getattr(record, name)) for name in _shape(type(record))}  # type: ignore[arg-type]


def require(holds: bool, text: str) -> None:
    """Raise `Mismatch(text)` unless `holds`: the one-line check of a `__post_init__`."""
    if not holds:
        raise Mismatch(text)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):  # which most are
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return plain(value) if dataclasses.is_dataclass(value) else value


@cache
def _shape(cls: type) -> dict[str, tuple[Any, bool]]:
    """The annotation of each field of `cls`, and whether it must be given; that takes longer than a small message."""
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cls)
    }


@cache
def _taken_apart(hint: Any) -> tuple[str, Any]:
    """What kind of annotation `hint` is, and what it says of the values inside."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return "optional", next(option for option in inside if option is not NONE)
    if dataclasses.is_dataclass(hint):
        return "record", hint
    if origin is tuple:
        return "tuple", inside[0]
    return ("dict", inside[1]) if origin is dict else ("scalar", hint)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(value: object) -> str:
    return type(value).__name__


def _fit(hint: Any, value: object, strict: bool, path: str) -> Any:
    kind, inner = _taken_apart(hint)
    if kind == "scalar":
        return _fit_scalar(inner, value, path)
    if kind == "optional":
        return None if value is None else _fit(inner, value, strict, path)
    if kind == "record":
        return build(inner, value, strict=strict, path=path)
    return (_fit_tuple if kind == "tuple" else _fit_dict)(inner, value, strict, path)


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
        if not math.isfinite(number):
            raise Mismatch(f"{path} must be a finite number")
        return number
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise Mismatch(f"{path} must be {hint.__name__}, not {_kind(value)}")
    return value
