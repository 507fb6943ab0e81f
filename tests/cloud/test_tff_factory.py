"""How a factory of TFF is written in a strategy's name, and what is said where TFF is not; none of it loads TFF."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cloud.settings import load_aggregator
from fedfleet.cloud.strategies import algorithm, parts, strategy
from fedfleet.cloud.tff.factory import Factory, factory
from fedfleet.cloud.tff.installed import PACKAGE, needed
from fedfleet.cloud.tff.packing import packed, rows, unpacked
from fedfleet.wire.errors import SettingsError

HERE = find_spec(PACKAGE) is not None
missing = pytest.mark.skipif(HERE, reason="TensorFlow Federated is installed here")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MeanFactory", Factory("MeanFactory")),
        ("MeanFactory()", Factory("MeanFactory")),
        ("dp_aggregator(noise_multiplier=0.5, clients_per_round=10)",
         Factory("dp_aggregator", "", {"noise_multiplier": 0.5, "clients_per_round": 10})),
        ("A.gaussian_fixed(clip=-1e-3)", Factory("A.gaussian_fixed", "", {"clip": -0.001})),
        ("mine.py:build", Factory("build", "/base/mine.py")),
        ("a b/mine.py:build(on=True,of='x',at=None)", Factory("build", "/base/a b/mine.py", {"on": True, "of": "x", "at": None})),
        ("/abs/mine.py:build", Factory("build", "/abs/mine.py")),
    ],
)  # fmt: skip
def test_what_a_text_names(text: str, found: Factory) -> None:
    assert factory(text, Path("/base")) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "tff:: write tff:NAME, tff:NAME(ARGUMENT=VALUE,...) or tff:FILE.py:FUNCTION"),
        ("Mean Factory", "write tff:NAME"),
        ("_hidden", "write tff:NAME"),
        ("MeanFactory(", "write tff:NAME"),
        ("MeanFactory(1)", "tff:MeanFactory(1): write tff:NAME"),
        ("MeanFactory(a=)", "write tff:NAME"),
        ("MeanFactory(a=1,a=2)", "each argument by its name, and once"),
        ("MeanFactory(**a)", "each argument by its name, and once"),
        ("mine.py:build(a=[1])", "a must be a number, a text, True, False or None; for more write a function"),
        ("mine.py:build(a=b)", "a must be a number"),
        ("mine.py:build(a=1+1)", "a must be a number"),
        ("x" * 501, "write tff:NAME"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        factory(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert factory(text).name
    except SettingsError as error:
        assert "tff:" in str(error)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tff:MeanFactory", ("tff:MeanFactory", "fedavg")),
        ("tff:MeanFactory+fedadam:0.1", ("tff:MeanFactory", "fedadam:0.1")),
        ("tff:x.py:f(a=1e+5,b='+')+tff.adam", ("tff:x.py:f(a=1e+5,b='+')", "tff.adam")),
        ("tff.yogi:0.5", ("", "tff.yogi:0.5")),
        ("krum:1+tff.sgdm", ("krum:1", "tff.sgdm")),
    ],
)
def test_the_parts_of_a_name(name: str, found: tuple[str, str]) -> None:
    assert parts(name) == found


@pytest.mark.parametrize("name", ["tff:MeanFactory+", "tff:MeanFactory+krum:1", "tff", "tff.adafactor", "tff:a+tff:b"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="unknown strategy|write it as|write tff:NAME"):
        strategy(name)


def test_a_journal_goes_on_with_the_same_factory_alone() -> None:
    """What a factory remembers is its own; rules without a memory, and rates, may change."""
    assert algorithm("tff:robust_aggregator+fedadam:0.1") == algorithm("tff:robust_aggregator+fedadam:0.2")
    assert algorithm("tff:robust_aggregator+fedadam") != algorithm("tff:MeanFactory+fedadam")
    assert algorithm("krum:1+fedadam") == algorithm("median+fedadam") == algorithm("fedadam")
    assert algorithm("no such+thing") == "+no such+thing"


@missing
@pytest.mark.parametrize("name", ["tff:MeanFactory", "tff.adam:0.1", "tff:mine.py:build+fedadam"])
def test_where_tff_is_not_it_is_said_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        strategy(name)
    assert str(caught.value).startswith("strategy tff")
    assert "tests/lock-tff.txt" in str(caught.value)
    (tmp_path / "settings.toml").write_text(f'fleet = "f"\nmodel = "model"\nstrategy = "{name}"\n')
    with pytest.raises(SettingsError, match="strategy: strategy tff.* needs TensorFlow Federated 0.87"):
        load_aggregator(tmp_path / "settings.toml")
    assert PACKAGE not in sys.modules


@missing
def test_a_python_that_is_too_new_is_said() -> None:
    with pytest.raises(SettingsError, match="0.87, which is not installed: python3.11 -m venv"):
        needed("the engine tff", (3, 11))
    with pytest.raises(
        SettingsError, match="which goes up to Python 3.11, and this is Python 3.12: python3.11 -m venv"
    ):
        needed("the engine tff", (3, 12))


def test_a_state_comes_back_as_it_was() -> None:
    leaves = [np.float32(0.1), np.arange(3, dtype=np.float32), b"name", np.int64(1_795_812_194_970_663), np.bool_(True)]
    numbers = packed(leaves)
    assert numbers.shape == (6,)
    other = [np.float32(0), np.zeros(3, np.float32), b"name", np.int64(0), np.bool_(False)]
    found = unpacked(rows(numbers, 4).reshape(-1), other)
    assert rows(numbers, 4).shape == (2, 4)
    for one, two in zip(found, leaves):
        assert np.asarray(one).dtype == np.asarray(two).dtype
        assert np.asarray(one).tolist() == np.asarray(two).tolist()


def test_an_empty_state_takes_no_rows_and_one_that_float64_does_not_hold_is_refused() -> None:
    assert rows(packed([]), 5).shape == rows(packed([b"a"]), 5).shape == (0, 5)
    with pytest.raises(SettingsError, match="whole numbers that are too large"):
        packed([np.int64(2**60 + 1)])
    assert np.isnan(packed([np.float32(np.nan)])).all()
