"""How and how often: settings, the schedule, who sees which rows when; all without TensorFlow."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cloud.refine.choice import chosen
from fedfleet.cloud.refine.plan import (
    Made,
    Refined,
    Refinement,
    Refining,
    batches,
    contradiction,
    owned,
    parse,
    telling,
)  # fmt: skip
from fedfleet.cloud.settings import load_aggregator
from fedfleet.wire.errors import DataError, SettingsError
from fedfleet.wire.examples import Examples

HOW = Refinement("distil", 50, 32, 0.001, 1, 1440, 8, "a" * 64, True, "")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "polish"}, "kind must be tune or distil, not 'polish'"),
        ({"kind": "", "data": "npz:x"}, "kind is missing: tune or distil"),
        ({"kind": "", "gate": "loss"}, "kind is missing: tune or distil"),
        ({"every": 0}, "every must be at least 1"),
        ({"steps": 0}, "steps must be 1 to 100000"),
        ({"steps": 100_001}, "steps must be 1 to 100000"),
        ({"steps": 8193, "batch": 4096}, "steps times batch must be at most 33554432"),
        ({"batch": 0}, "batch must be 1 to 65536"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and at most 1"),
        ({"learning_rate": 1.5}, "learning_rate must be above 0 and at most 1"),
        ({"replicas": -1}, "replicas must be 0, for all GPUs, or a number"),
        ({"gate": "f1"}, "gate must be one of accuracy, rmse, mae, loss"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        replace(Refining("tune"), **change)  # type: ignore[arg-type]


def test_a_plan_in_a_few_words() -> None:
    assert parse("tune") == Refining("tune")
    asked = Refining("distil", every=5, steps=50, batch=32, learning_rate=0.01, replicas=2, gate="accuracy")
    assert parse("distil:every=5,steps=50,batch=32,learning_rate=0.01,replicas=2,gate=accuracy") == asked


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("polish", "refine 'polish': kind must be tune or distil"),
        (":every=2", "refine ':every=2': name what is to be done: tune or distil"),
        ("tune:every=0", "every must be at least 1"),
        ("tune:every=often", "every must be int, not str"),
        ("tune:steps=1.5", "steps must be int, not float"),
        ("tune:data=npz:x", "write KIND or KIND:KEY=VALUE,... with every, steps, batch"),
        ("tune:every", "write KIND or KIND:KEY=VALUE,..."),
    ],
)
def test_words_that_are_no_plan_are_refused(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        parse(text)


def test_every_so_many_th_model_is_due() -> None:
    assert [n for n in range(1, 11) if Refining("tune", every=5).due(n)] == [5, 10]
    assert all(Refining("tune").due(n) for n in range(1, 5))
    assert not any(Refining().due(n) for n in range(1, 5))


@given(st.integers(1, 60), st.integers(1, 80), st.integers(1, 30), st.integers(0, 9))
def test_no_row_comes_again_before_all_have_come(examples: int, batch: int, steps: int, seed: int) -> None:
    found = list(batches(examples, Refining("tune", batch=batch, steps=steps), seed, 3))
    assert len(found) == steps and {len(rows) for rows in found} == {min(batch, examples)}
    flat = np.concatenate(found)
    for start in range(0, len(flat), examples):
        part = flat[start : start + examples].tolist()
        assert len(set(part)) == len(part) and set(part) <= set(range(examples))


def test_rounds_and_seeds_have_orders_of_their_own() -> None:
    plan = Refining("tune", batch=50)
    first = [next(batches(50, plan, *which)).tolist() for which in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert first[0] == first[1]
    assert len({tuple(rows) for rows in first}) == 3
    two = [rows.tolist() for rows in islice(batches(50, plan, 0, 1), 2)]
    assert two[0] != two[1]


def test_distilling_does_not_go_with_a_rule_that_keeps_devices_out() -> None:
    for name in ("median", "krum:2+fedavgm"):
        text = contradiction(Refining("distil"), name, held_out=False)
        assert text.startswith(f"distil learns from all devices, also those that {name} keeps out; tune")
        assert contradiction(Refining("tune"), name, held_out=False) == ""
    assert contradiction(Refining("distil"), "fedadam:0.01", held_out=False) == ""


def test_a_gate_needs_something_to_go_by() -> None:
    assert "set evaluation.data" in contradiction(Refining("tune", gate="loss"), "fedavg", held_out=False)
    assert contradiction(Refining("tune", gate="loss"), "fedavg", held_out=True) == ""


def test_distilling_reads_no_labels_and_tuning_wants_them(tmp_path: Path) -> None:
    spec = f"npz:{tmp_path / 'd.npz'}"
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)))
    found = owned(Refining("distil"), spec)
    assert isinstance(found, np.ndarray) and found.shape == (3, 2)
    with pytest.raises(DataError, match=r"has no array 'y', only x: write it with numpy.savez\(FILE, x=..., y=...\)"):
        owned(Refining("tune"), spec)
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=np.arange(3))
    assert isinstance(owned(Refining("tune"), spec), Examples)
    assert isinstance(owned(Refining("distil"), spec), np.ndarray)


def test_the_plan_in_a_line() -> None:
    assert str(HOW) == "distil, 50 steps of 32 on 1,440 examples by 8 devices' models: taken"
    other = replace(HOW, kind="tune", taken=False, why="loss 0.5000, worse than 0.4000 before")
    assert str(other) == ("tune, 50 steps of 32 on 1,440 examples: not taken, loss 0.5000, worse than 0.4000 before")


def test_what_takes_its_time_is_told_first() -> None:
    said: list[str] = []
    made = Made(1, np.zeros(1, np.float32), lambda: iter(()))

    def refine(given: Made) -> Refined:
        said.append("refine")
        return Refined(given.weights, HOW)

    told = telling(refine, lambda: said.append("tell"))
    assert told is not None and told(made).how == HOW
    assert said == ["tell", "refine"]
    assert telling(None, lambda: said.append("tell")) is None


ONE, TWO = np.float32([1.0]), np.float32([2.0])


@pytest.mark.parametrize(
    ("gate", "old", "new", "taken"),
    [("accuracy", 0.5, 0.6, True), ("accuracy", 0.5, 0.5, True), ("accuracy", 0.5, 0.4, False),
     ("rmse", 9.0, 8.0, True), ("rmse", 9.0, 9.5, False), ("loss", 0.5, 0.6, False),
     ("loss", np.inf, 0.6, True), ("loss", 0.5, np.nan, False)],
)  # fmt: skip
def test_a_gate_takes_what_is_not_worse(gate: str, old: float, new: float, taken: bool) -> None:
    scores = {1.0: {gate: old}, 2.0: {gate: new}}
    found, why = chosen(ONE, TWO, gate, lambda weights: scores[float(weights[0])])
    assert found is taken
    assert why == f"{gate} {new:.4f}, {'not ' if taken else ''}worse than {old:.4f} before"


def test_without_a_gate_all_is_taken_but_what_is_not_finite() -> None:
    assert chosen(ONE, TWO, "", None) == (True, "")
    assert chosen(ONE, TWO * np.float32(np.nan), "", None) == (
        False,
        "its weights are not finite: lower the learning_rate",
    )


FLEET = 'fleet = "mill"\nmodel = "model"\n'
REFINE = '[refine]\nkind = "distil"\ndata = "npz:d.npz"\nmodel = "m.py:build"\n'


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET + REFINE + "every = 5\nsteps = 20\n")
    assert load_aggregator(path).refine == Refining("distil", "npz:d.npz", "m.py:build", 5, 20)
    path.write_text(FLEET)
    assert load_aggregator(path).refine == Refining()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (REFINE.replace("distil", "polish"), "refine: kind must be tune or distil, not 'polish'"),
        (REFINE + "every = 0\n", "refine: every must be at least 1"),
        (REFINE + 'gate = "loss"\n', "refine: gate needs held-out data to go by: set evaluation.data"),
        ('[refine]\nkind = "tune"\ndata = "npz:d.npz"\n', "refine.model is missing: tune needs it"),
        ('[refine]\nkind = "tune"\nmodel = "m.py:build"\n', "refine.data is missing: tune needs it"),
        ('[refine]\nmodel = "m.py:build"\n', "refine: kind is missing"),
        ('strategy = "median"\n' + REFINE, "refine: distil learns from all devices, also those that median keeps out"),
        (REFINE + "epochs = 3\n", "unknown setting refine.epochs"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET + text)
    with pytest.raises(SettingsError, match=re.escape(words)):
        load_aggregator(tmp_path / "fleet.toml")
