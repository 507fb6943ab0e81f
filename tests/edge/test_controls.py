"""SCAFFOLD on the device: its steps against plain ones, the same bits after any end, and the loss it begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import never
from numpy.typing import NDArray

from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.data import Store
from fedfleet.edge.holdout import divided
from fedfleet.edge.local import LocalTrainer, said
from fedfleet.edge.private import Private
from fedfleet.edge.runtime import Program
from fedfleet.models.compiled import Compiled
from fedfleet.wire.codecs import Weights, grow
from fedfleet.wire.errors import ProgramError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Control, Plan, Task, Update

RATE = 0.05
Halves = tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture
def size(small: Compiled) -> int:
    return int(small.weights.size)


@pytest.fixture
def server(size: int, blobs: tuple[Path, Path]) -> Weights:
    """The server's control, which lies beside the weights under its digest."""
    found = np.random.default_rng(1).normal(0, 0.1, size).astype(np.float32)
    name(found, blobs).write_bytes(found.tobytes())
    return found


def name(values: Weights, blobs: tuple[Path, Path]) -> Path:
    return blobs[1].with_name(Blob.of(values.tobytes()).digest)


def controlled(task: Task, server: Weights, number: int = 3, abandoned: tuple[int, ...] = ()) -> Task:
    """One step of plain SGD in round `number`."""
    control = Control(Blob.of(server.tobytes()), 1, abandoned)
    return replace(task, round=number, plan=Plan(steps=1, learning_rate=RATE), control=control)


def trained(task: Task, blobs: tuple[Path, Path], stored: Path) -> Update:
    update = LocalTrainer("d1", stored).train(task, *blobs, never)
    assert update is not None
    return update


def halves(update: Update) -> Halves:
    both = np.frombuffer(update.delta, "<f4")
    return both[: both.size // 2], both[both.size // 2 :]


def kept(stored: Path, task: Task, number: int) -> NDArray[np.float32]:
    path = stored.parent / "control" / task.program.digest / f"{number}.weights"
    return np.frombuffer(path.read_bytes()[:-32], "<f4")


def rounds(stored: Path) -> list[str]:
    return sorted(path.stem for path in (stored.parent / "control").rglob("*.weights"))


def test_a_step_is_corrected_and_the_devices_own_control_is_its_gradient(
    task: Task, blobs: tuple[Path, Path], stored: Path, server: Weights
) -> None:
    now = controlled(task, server)
    plain = np.frombuffer(trained(replace(now, control=None), blobs, stored).delta, "<f4")
    assert not (stored.parent / "control").exists()
    delta, change = halves(trained(now, blobs, stored))
    np.testing.assert_allclose(delta, plain - np.float32(RATE) * server, atol=1e-6)  # line 10, c_i = 0
    np.testing.assert_allclose(change, -plain / RATE, atol=1e-4)  # line 12: c_i+ is the mean gradient
    np.testing.assert_array_equal(kept(stored, task, 3), change)
    later = controlled(task, server, 4)
    plain = np.frombuffer(trained(replace(later, control=None), blobs, stored).delta, "<f4")
    own = kept(stored, task, 3).copy()
    delta, change = halves(trained(later, blobs, stored))
    np.testing.assert_allclose(delta, plain - np.float32(RATE) * (server - own), atol=1e-6)
    np.testing.assert_allclose(own + change, -plain / RATE, atol=1e-4)


def test_the_same_trainer_forgets_the_correction_with_the_next_task(
    task: Task, blobs: tuple[Path, Path], stored: Path, server: Weights
) -> None:
    trainer, plain = LocalTrainer("d1", stored), replace(task, plan=Plan(steps=2, learning_rate=RATE))
    wanted = trainer.train(plain, *blobs, never)
    corrected = trainer.train(controlled(task, server), *blobs, never)
    again = trainer.train(plain, *blobs, never)
    assert wanted is not None and corrected is not None and again is not None
    assert wanted.delta == again.delta
    assert len(corrected.delta) == 2 * len(wanted.delta)
    program = Program(blobs[0], task.program.digest)
    for _ in range(2):
        program.set(server)
        assert not program.corrected
        program.correct(server)
        assert program.corrected


def test_a_round_trained_again_gives_the_same_bits_in_a_process_of_its_own_too(
    task: Task, blobs: tuple[Path, Path], stored: Path, server: Weights, child: ChildTrainer, rooms: object
) -> None:
    trained(controlled(task, server, 2), blobs, stored)
    now = replace(controlled(task, server), plan=Plan(epochs=2, learning_rate=RATE, codec="int8"))
    first = trained(now, blobs, stored)
    assert trained(now, blobs, stored).delta == first.delta
    in_child = child.train(now, *blobs, never)
    assert in_child is not None and in_child.delta == first.delta
    assert rounds(stored) == ["2", "3"]


def test_a_round_that_was_abandoned_leaves_nothing_behind(
    task: Task, blobs: tuple[Path, Path], stored: Path, server: Weights
) -> None:
    trained(controlled(task, server, 2), blobs, stored)
    wanted = trained(controlled(task, server, 5), blobs, stored)
    for number, abandoned in ((3, ()), (4, (3,)), (5, (3, 4))):
        found = trained(controlled(task, server, number, abandoned), blobs, stored)
    assert found.delta == wanted.delta
    assert rounds(stored) == ["2", "5"]
    assert trained(controlled(task, server, 6, (3, 4)), blobs, stored).delta != wanted.delta


def test_what_an_earlier_federation_left_does_not_count(
    task: Task, blobs: tuple[Path, Path], stored: Path, server: Weights
) -> None:
    wanted = trained(controlled(task, server, 7), blobs, stored)
    (stored.parent / "control").rename(stored.parent / "gone")
    trained(controlled(task, server, 5), blobs, stored)
    now = controlled(task, server, 7)
    assert trained(replace(now, control=Control(Blob.of(server.tobytes()), 6)), blobs, stored).delta == wanted.delta


def test_a_lossy_codec_loses_nothing_of_either_vector_for_good(
    task: Task, blobs: tuple[Path, Path], stored: Path, server: Weights, size: int
) -> None:
    sent = np.zeros(2 * size)
    for number in range(1, 6):
        now = controlled(task, server, number)
        update = trained(replace(now, plan=replace(now.plan, codec="topk:0.2+int8")), blobs, stored)
        sent += grow(update.codec, update.delta, 2 * size)
    left = Private(stored.with_name("residual"), task.program.digest, np.zeros(2 * size, np.float32)).before(6)
    np.testing.assert_allclose((sent + left)[size:], kept(stored, task, 5), atol=1e-4)


def test_a_control_of_another_size_or_with_other_bytes_is_one_line(
    task: Task, blobs: tuple[Path, Path], stored: Path, server: Weights, size: int
) -> None:
    short = server[:-1].copy()
    name(short, blobs).write_bytes(short.tobytes())
    with pytest.raises(ProgramError, match=f"the control has {size - 1} weights, the program shares {size}"):
        trained(controlled(task, short), blobs, stored)
    name(server, blobs).write_bytes(bytes(4 * size))
    with pytest.raises(ProgramError, match="on disk have other bytes than their name says"):
        trained(controlled(task, server), blobs, stored)
    assert not (stored.parent / "control").exists()


def test_the_loss_before_is_that_of_the_tasks_weights_on_all_examples(
    task: Task, blobs: tuple[Path, Path], stored: Path, small: Compiled, examples: Examples
) -> None:
    program = Program(blobs[0], small.digest)
    program.set(small.weights)
    each = [-np.log(program.infer(row[np.newaxis])[0, label]) for row, label in zip(examples.x, examples.y)]
    asking = replace(task, plan=replace(task.plan, before=True))
    update = trained(asking, blobs, stored)
    assert update.metrics["before"] == pytest.approx(float(np.mean(each)), rel=1e-5)
    silent = trained(task, blobs, stored)
    assert "before" not in silent.metrics
    assert update.delta == silent.delta


def test_it_stops_while_it_asks_for_the_loss(
    task: Task, blobs: tuple[Path, Path], stored: Path, small: Compiled
) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 1

    asking = replace(task, plan=replace(task.plan, before=True))
    assert LocalTrainer("d1", stored).train(asking, *blobs, stop) is None
    assert len(asked) == 2


def test_a_model_without_a_finite_loss_is_one_line(
    task: Task, stored: Path, blobs: tuple[Path, Path], small: Compiled
) -> None:
    program = Program(blobs[0], small.digest)
    program.set(np.full_like(small.weights, np.nan))
    records, asking = Store.open(stored).records(), replace(task, plan=replace(task.plan, before=True))
    parts = [Examples(part["x"], part["y"]) for part in records]
    with pytest.raises(ProgramError, match="loss on this device's examples is not finite; lower the learning rate"):
        said(program, asking, parts, divided(records, 0), never)
