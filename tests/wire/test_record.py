"""Mappings into dataclasses: what fits, what is refused and how the refusal names it."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field

import pytest

from fedfleet.wire.record import Mismatch, build, plain, require


@dataclass(frozen=True)
class Inner:
    port: int = 1883
    ratio: float = 0.5

    def __post_init__(self) -> None:
        require(self.port > 0, "port must be above 0")


@dataclass(frozen=True)
class Outer:
    name: str
    on: bool = False
    inner: Inner = field(default_factory=Inner)
    many: tuple[int, ...] = ()
    table: dict[str, float] = field(default_factory=dict)
    maybe: int | None = None


def test_builds_what_plain_gives() -> None:
    record = Outer("a", True, Inner(1, 2.0), (1, 2), {"x": 1.5}, 7)
    assert build(Outer, plain(record), strict=True) == record


def test_integers_pass_as_floats() -> None:
    assert build(Inner, {"ratio": 2}, strict=True).ratio == 2.0


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, "name is missing"),
        ({"name": 3}, "name must be str, not int"),
        ({"name": "a", "on": 1}, "on must be bool, not int"),
        ({"name": "a", "maybe": True}, "maybe must be int, not bool"),
        ({"name": "a", "inner": {"port": "x"}}, "inner.port must be int, not str"),
        ({"name": "a", "inner": {"port": 0}}, "inner: port must be above 0"),
        ({"name": "a", "inner": {"ratio": float("nan")}}, "inner.ratio must be a finite number"),
        ({"name": "a", "inner": {"ratio": 10**400}}, "inner.ratio must be a finite number"),
        ({"name": "a", "inner": 3}, "inner must be a table, not int"),
        ({"name": "a", "many": [1, "b"]}, r"many\[1\] must be int, not str"),
        ({"name": "a", "many": 3}, "many must be a list, not int"),
        ({"name": "a", "table": {"x": "y"}}, "table.x must be float, not str"),
        ({"name": "a", "inner": {"prot": 1}}, "unknown setting inner.prot; known here: port, ratio"),
        ([], "the top level must be a table, not list"),
    ],
)
def test_refusals_name_the_field(table: object, text: str) -> None:
    with pytest.raises(Mismatch, match=text):
        build(Outer, table, strict=True)


def test_peers_may_say_more_than_we_know() -> None:
    assert build(Outer, {"name": "a", "new": 1}, strict=False) == Outer("a")


def test_what_a_type_wants_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    hints = typing.get_type_hints

    def counted(cls: type) -> dict[str, object]:
        looked.append(cls)
        return hints(cls)

    monkeypatch.setattr(typing, "get_type_hints", counted)

    @dataclass(frozen=True)
    class Fresh:
        port: int = 1

    assert [build(Fresh, {"port": port}, strict=True) for port in (1, 2, 3)] == [Fresh(1), Fresh(2), Fresh(3)]
    assert looked == [Fresh]
