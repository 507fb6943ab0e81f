"""Training with a real program: the same update to the bit, and one clear line for whatever is wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import never

from fedfleet.edge.data import Store
from fedfleet.edge.local import LocalTrainer, batch_seed, read_weights
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import DataError, ProgramError, StoreError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Plan, Task, Update


@pytest.fixture
def task(small: Compiled, blobs: tuple[Path, Path]) -> Task:
    return Task(3, Blob.of(small.program), Blob.of(blobs[1].read_bytes()), Plan(epochs=2, learning_rate=0.01), seed=9)


def trained(task: Task, blobs: tuple[Path, Path], stored: Path, device: str = "d1") -> Update:
    update = LocalTrainer(device, stored).train(task, *blobs, never)
    assert update is not None
    return update


def test_it_trains_and_says_how(task: Task, blobs: tuple[Path, Path], stored: Path, small: Compiled) -> None:
    update = trained(task, blobs, stored)
    assert (update.round, update.device, update.examples, update.codec) == (3, "d1", 20, "float32")
    delta = np.frombuffer(update.delta, "<f4")
    assert delta.size == small.weights.size
    assert 0 < np.abs(delta).max() < 1
    assert update.metrics["steps"] == 6  # two passes of three batches
    assert set(update.metrics) == {"loss", "steps", "seconds", "rss_mib"}
    longer = trained(replace(task, plan=replace(task.plan, epochs=40)), blobs, stored)
    assert longer.metrics["loss"] < update.metrics["loss"]


def test_the_same_seed_gives_the_same_difference_to_the_bit(task: Task, blobs: tuple[Path, Path], stored: Path) -> None:
    trainer = LocalTrainer("d1", stored)
    first, again = trainer.train(task, *blobs, never), trainer.train(task, *blobs, never)
    assert first is not None
    assert again is not None
    assert first.delta == again.delta == trained(task, blobs, stored).delta
    for other in (replace(task, seed=10), replace(task, round=4)):
        assert trained(other, blobs, stored).delta != first.delta
    assert trained(task, blobs, stored, "d2").delta != first.delta
    trainer.close()


def test_the_seed_of_the_batches_is_the_one_that_is_written_down(task: Task) -> None:
    # sha256("batches:9:3:d1"), first 8 bytes, big-endian
    assert batch_seed(task, "d1") == 11_212_383_436_877_980_076
    assert batch_seed(task, "d1") != batch_seed(task, "d2")


@pytest.mark.parametrize(
    "terms", [{"nesterov": True}, {"second_moment": 0.9}, {"weight_decay": 0.5}, {"clip_norm": 0.1}]
)
def test_every_term_of_the_plan_reaches_the_step(
    task: Task, blobs: tuple[Path, Path], stored: Path, terms: dict[str, float]
) -> None:
    plan = replace(task.plan, momentum=0.5)
    with_it, without = (trained(replace(task, plan=p), blobs, stored) for p in (replace(plan, **terms), plan))
    assert with_it.delta != without.delta


def test_steps_go_before_epochs(task: Task, blobs: tuple[Path, Path], stored: Path) -> None:
    update = trained(replace(task, plan=replace(task.plan, steps=5)), blobs, stored)
    assert update.metrics["steps"] == 5


def test_an_exhausted_time_budget_ends_training_but_not_the_update(
    task: Task, blobs: tuple[Path, Path], stored: Path
) -> None:
    plan = replace(task.plan, steps=10_000_000, time_budget=0.2)
    update = trained(replace(task, plan=plan), blobs, stored)
    assert 1 <= update.metrics["steps"] < 10_000_000
    assert 0.2 <= update.metrics["seconds"] < 10


def test_it_stops_between_two_batches(task: Task, blobs: tuple[Path, Path], stored: Path) -> None:
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 3

    assert LocalTrainer("d1", stored).train(task, *blobs, stop) is None
    assert len(asked) == 4


def refusals() -> list[Any]:
    zero = Blob("0" * 64, 8)
    return [
        ({"program": zero}, ProgramError, "program 000000000000 on disk has other bytes than its name says"),
        ({"weights": zero}, ProgramError, "weights 000000000000 on disk have other bytes than their name says"),
        (
            {"plan": Plan(learning_rate=1e30, steps=20)},
            ProgramError,
            "training diverged in round 3: .*; lower the lear",
        ),
    ]


@pytest.mark.parametrize(("wrong", "error", "reason"), refusals())
def test_what_is_wrong_is_one_clear_line(
    task: Task, blobs: tuple[Path, Path], stored: Path, wrong: dict[str, Any], error: type[Exception], reason: str
) -> None:
    trainer = LocalTrainer("d1", stored)
    with pytest.raises(error, match=reason):
        trainer.train(replace(task, **wrong), *blobs, never)
    assert trainer.train(task, *blobs, never) is not None  # and the next round finds it ready


@pytest.mark.parametrize("keep", [0, 4, -4])
def test_a_wrong_size_of_weights_is_named(
    task: Task, blobs: tuple[Path, Path], stored: Path, tmp_path: Path, keep: int
) -> None:
    data = blobs[1].read_bytes()
    (tmp_path / "weights").write_bytes(data[:keep] if keep else data + bytes(4))
    other = Blob.of((tmp_path / "weights").read_bytes())
    with pytest.raises(ProgramError, match="weights have shape .* the program wants"):
        LocalTrainer("d1", stored).train(replace(task, weights=other), blobs[0], tmp_path / "weights", never)


def test_weights_that_are_no_floats_are_named(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"12345")
    with pytest.raises(ProgramError, match="other bytes than their name says"):
        read_weights(tmp_path / "weights", Blob.of(b"12345").digest)
    with pytest.raises(ProgramError, match="absent cannot be read"):
        read_weights(tmp_path / "absent", "0" * 64)


def test_a_truncated_program_is_refused_by_its_digest(
    task: Task, blobs: tuple[Path, Path], stored: Path, tmp_path: Path
) -> None:
    (tmp_path / "program").write_bytes(blobs[0].read_bytes()[:-100])
    with pytest.raises(ProgramError, match="it will be fetched anew"):
        LocalTrainer("d1", stored).train(task, tmp_path / "program", blobs[1], never)


def test_an_empty_store_says_how_to_fill_it(task: Task, blobs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no examples yet: fedfleet-agent import FILE"):
        LocalTrainer("d1", tmp_path / "empty").train(task, *blobs, never)


@pytest.mark.parametrize("label", [3, 1000, -1])
def test_a_label_that_the_model_does_not_have_is_named(
    task: Task, blobs: tuple[Path, Path], tmp_path: Path, examples: Examples, label: int
) -> None:
    y = examples.y.copy()
    y[7] = label
    if label < 0:
        with pytest.raises(DataError, match="row 7"):
            Store.open(tmp_path / "examples").append(Examples(examples.x, y))
        return
    Store.open(tmp_path / "examples").append(Examples(examples.x, y))
    with pytest.raises(DataError, match=f"an example has label {label}, but the model tells 3 classes apart"):
        LocalTrainer("d1", tmp_path / "examples").train(task, *blobs, never)


@pytest.mark.parametrize("shape", [(20, 5), (20, 300, 2)])
def test_examples_of_another_shape_are_one_line(
    task: Task, blobs: tuple[Path, Path], tmp_path: Path, shape: tuple[int, ...]
) -> None:
    Store.open(tmp_path / "examples").append(Examples(np.zeros(shape, np.float32), np.zeros(20, np.int32)))
    with pytest.raises(ProgramError, match="^program [0-9a-f]{12}, train: .+"):
        LocalTrainer("d1", tmp_path / "examples").train(task, *blobs, never)
    Store.open(tmp_path / "targets").append(Examples(np.zeros((20, 300), np.float32), np.zeros((20, 1), np.float32)))
    with pytest.raises((ProgramError, DataError)):
        LocalTrainer("d1", tmp_path / "targets").train(task, *blobs, never)
