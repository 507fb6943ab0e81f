"""Examples that are held back are never trained on, and what is said of a model is the sums over them."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import never
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.data import Store, gathered
from fedfleet.edge.holdout import divided, examined
from fedfleet.edge.local import LocalTrainer
from fedfleet.edge.runtime import Program
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import Examples, take
from fedfleet.wire.messages import Task, Update

EVALUATED = {"eval_loss", "eval_metric", "eval_examples"}


def train(task: Task, blobs: tuple[Path, Path], stored: Path) -> Update:
    update = LocalTrainer("d1", stored).train(task, *blobs, never)
    assert update is not None
    return update


def told(update: Update) -> dict[str, float]:
    return {name: value for name, value in update.metrics.items() if name in EVALUATED}


def with_holdout(task: Task, share: float, *, evaluate: bool = True) -> Task:
    return replace(task, plan=replace(task.plan, holdout=share), evaluate=evaluate)


def held(examples: Examples, share: float) -> list[bool]:
    """Which are held back, by the rule that docs/wire.md gives."""
    x, y = examples
    return [zlib.crc32(x[i].tobytes() + y[i].tobytes()) < share * 2**32 for i in range(len(y))]


def numbered(start: int, stop: int) -> Examples:
    """Examples that tell their number."""
    y = np.arange(start, stop, dtype=np.int32)
    return Examples(np.repeat(y[:, None].astype(np.float32), 3, axis=1), y)


def sides(store: Store, share: float) -> tuple[set[int], set[int]]:
    """The numbers of the examples that are trained on, and of those held back."""
    labels = np.concatenate([part["y"] for part in store.records()])
    learned, kept = divided(store.records(), share)
    assert sorted([*learned, *kept]) == list(range(len(labels)))
    return set(labels[learned].tolist()), set(labels[kept].tolist())


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.05, 0.6), st.floats(0.05, 0.6))
def test_what_was_held_back_once_is_never_trained_on(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], share: float, greater: float
) -> None:
    """Whatever is collected and dropped in between, and wherever an example lies by then."""
    share, greater = sorted((share, greater))
    store = Store.open(tmp_path_factory.mktemp("held"), 2048, 512)
    trained, kept, end = set[int](), set[int](), 40
    store.append(numbered(0, end))
    for size in sizes:
        store.append(numbered(end, end + size))
        end += size
        learned, back = sides(store, share)
        assert back <= sides(store, greater)[1]
        trained |= learned
        kept |= back
    assert trained.isdisjoint(kept)


def test_about_the_share_is_held_back_and_equal_examples_are_together(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for _ in range(2):
        store.append(numbered(0, 2000))
    for share in (0.1, 0.2, 0.5):
        learned, back = sides(store, share)
        assert learned.isdisjoint(back)
        assert abs(len(back) / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5
    assert [found.tolist() for found in divided(store.records(), 0)] == [list(range(4000))] * 2


def test_where_nothing_is_left_to_train_on_that_is_said(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.append(numbered(0, 3))
    with pytest.raises(DataError, match=r"all 3 examples are held back by the plan's holdout of 0.999999: collect"):
        divided(store.records(), 0.999999)


def test_training_is_to_the_bit_what_it_is_without_the_examples_held_back(
    task: Task, blobs: tuple[Path, Path], stored: Path, examples: Examples, tmp_path: Path
) -> None:
    back = held(examples, 0.3)
    assert 0 < sum(back) < 20
    rest = take(examples, np.flatnonzero(~np.array(back)))
    Store.open(tmp_path / "rest" / "examples").append(rest)
    for plan in (task.plan, replace(task.plan, steps=5)):
        wanted = train(replace(task, plan=plan), blobs, tmp_path / "rest" / "examples")
        found = train(with_holdout(replace(task, plan=plan), 0.3), blobs, stored)
        assert (found.delta, found.examples) == (wanted.delta, 20 - sum(back))


def test_evaluating_changes_nothing_that_is_trained(task: Task, blobs: tuple[Path, Path], stored: Path) -> None:
    for share in (0.0, 0.3):
        without = train(with_holdout(task, share, evaluate=False), blobs, stored)
        assert told(without) == {}
        assert train(with_holdout(task, share), blobs, stored).delta == without.delta


def outputs(blobs: tuple[Path, Path], compiled: Compiled, x: Any) -> Any:
    """What the task's weights make of each example by itself."""
    program = Program(blobs[0], compiled.digest)
    program.set(compiled.weights)
    return np.array([program.infer(x[i : i + 1])[0] for i in range(len(x))], np.float64)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_sums_are_those_of_the_weights_before_training(
    task: Task, blobs: tuple[Path, Path], stored: Path, small: Compiled, examples: Examples, share: float
) -> None:
    back = np.array(held(examples, share)) | (share == 0)
    x, y = take(examples, np.flatnonzero(back))
    found = outputs(blobs, small, x)
    update = train(with_holdout(task, share), blobs, stored)
    assert update.metrics["eval_examples"] == len(y)
    assert update.metrics["eval_metric"] == sum(found.argmax(axis=1) == y)
    loss = -np.log(found[np.arange(len(y)), y])  # the program ends in softmax
    assert update.metrics["eval_loss"] == pytest.approx(loss.sum(), rel=1e-4)


def test_nothing_is_said_where_nothing_is_held_back(task: Task, blobs: tuple[Path, Path], tmp_path: Path) -> None:
    x = np.ones((2, 300), np.float32)
    Store.open(tmp_path / "examples").append(Examples(x, np.array([0, 1], np.int32)))
    update = train(with_holdout(task, 1e-6), blobs, tmp_path / "examples")
    assert (update.examples, told(update)) == (2, {})


def test_a_sum_that_is_no_number_is_left_out(blobs: tuple[Path, Path], small: Compiled, examples: Examples) -> None:
    program = Program(blobs[0], small.digest)
    program.set(np.full_like(small.weights, np.nan))
    found = examined(program, gathered([examples], np.arange(20), program.batch), never)
    assert found is not None and found.keys() < EVALUATED
    assert found["eval_examples"] == 20


def test_it_stops_between_two_batches_of_the_evaluation(
    task: Task, blobs: tuple[Path, Path], stored: Path, small: Compiled, examples: Examples
) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    program = Program(blobs[0], small.digest)
    program.set(small.weights)
    assert examined(program, gathered([examples], np.arange(20), program.batch), stop) is None
    assert len(asked) == 3
    assert LocalTrainer("d1", stored).train(with_holdout(task, 0.0), *blobs, stop) is None
    assert len(asked) == 4


def test_a_label_that_the_model_does_not_have_is_named_there_too(
    task: Task, blobs: tuple[Path, Path], examples: Examples, tmp_path: Path
) -> None:
    y = examples.y.copy()
    y[0] = 3
    share = next(s for s in np.linspace(0.01, 0.9, 90) if held(Examples(examples.x, y), s)[0])
    Store.open(tmp_path / "examples").append(Examples(examples.x, y))
    with pytest.raises(DataError, match="an example has label 3, but the model tells 3 classes apart"):
        train(with_holdout(task, float(share)), blobs, tmp_path / "examples")


def test_the_child_says_the_same(child: ChildTrainer, task: Task, blobs: tuple[Path, Path], stored: Path) -> None:
    asked = with_holdout(task, 0.3)
    update, here = child.train(asked, *blobs, never), train(asked, blobs, stored)
    assert update is not None
    assert (update.delta, told(update), update.examples) == (here.delta, told(here), here.examples)
    assert told(update).keys() == EVALUATED
