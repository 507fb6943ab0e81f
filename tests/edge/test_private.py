"""Local weights on the device: kept whole, by round, and never in what is sent."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import never

from fedfleet.edge.local import LocalTrainer
from fedfleet.edge.private import Private
from fedfleet.edge.runtime import Program
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import ProgramError, StoreError
from fedfleet.wire.messages import Blob, Plan, Task, Update

INITIAL = np.array([1, -0.0, 1e-42], np.float32)
DIGEST = "d" * 64


def kept(private: Path) -> list[str]:
    return sorted(path.name for path in private.rglob("*") if path.is_file())


def test_a_round_starts_from_the_newest_earlier_one(tmp_path: Path) -> None:
    private = Private(tmp_path / "local", DIGEST, INITIAL)
    assert private.before(1).tobytes() == INITIAL.tobytes()
    for number in (1, 2, 9, 10):
        private.keep(number, INITIAL + number)
    assert kept(tmp_path) == ["10.weights", "9.weights"]
    for number, start in ((11, 10), (500, 10), (10, 9)):
        np.testing.assert_array_equal(private.before(number), INITIAL + start)
    np.testing.assert_array_equal(private.before(9), INITIAL)


def test_rounds_that_do_not_count_are_passed_over_and_push_nothing_out(tmp_path: Path) -> None:
    private = Private(tmp_path / "control", DIGEST, INITIAL)
    for number in (4, 5, 6):
        private.keep(number, INITIAL + number, lambda found: found != 5)
    assert kept(tmp_path) == ["4.weights", "6.weights"]
    np.testing.assert_array_equal(private.before(6, lambda found: found != 5), INITIAL + 4)
    np.testing.assert_array_equal(private.before(6, lambda found: found > 4), INITIAL)


def test_a_fleet_that_begins_anew_leaves_later_rounds_behind(tmp_path: Path) -> None:
    private = Private(tmp_path, DIGEST, INITIAL)
    for number in (40, 41, 1):
        private.keep(number, INITIAL + number)
    assert kept(tmp_path) == ["1.weights"]
    np.testing.assert_array_equal(private.before(2), INITIAL + 1)


def test_every_program_has_its_own(tmp_path: Path) -> None:
    Private(tmp_path, DIGEST, INITIAL).keep(3, INITIAL + 3)
    np.testing.assert_array_equal(Private(tmp_path, "e" * 64, INITIAL[:2]).before(9), INITIAL[:2])


def programs(folder: Path) -> set[str]:
    return {path.name[:1] for path in folder.iterdir()}


def test_the_newest_two_programs_are_kept_whatever_the_clock_says(tmp_path: Path) -> None:
    for number, name in enumerate("bac", 9):
        Private(tmp_path, name * 64, INITIAL).keep(number, INITIAL + number)
        os.utime(tmp_path / (name * 64), (1000 - number, 1000 - number))
    assert programs(tmp_path) == {"a", "c"}
    np.testing.assert_array_equal(Private(tmp_path, "a" * 64, INITIAL).before(12), INITIAL + 10)
    Private(tmp_path, "a" * 64, INITIAL).keep(12, INITIAL)  # the fleet goes back
    assert programs(tmp_path) == {"a", "c"}
    Private(tmp_path, "d" * 64, INITIAL).keep(13, INITIAL)
    assert programs(tmp_path) == {"a", "d"}


def test_programs_of_a_fleet_before_this_one_are_the_older_ones(tmp_path: Path) -> None:
    for number, name in ((500, "a"), (3, "b"), (4, "c")):
        Private(tmp_path, name * 64, INITIAL).keep(number, INITIAL)
    assert programs(tmp_path) == {"b", "c"}


def test_what_a_power_cut_left_of_a_program_goes_the_next_time(tmp_path: Path) -> None:
    for number, name in ((1, "a"), (2, "b")):
        Private(tmp_path, name * 64, INITIAL).keep(number, INITIAL)
    (tmp_path / ("e" * 64)).mkdir()
    (tmp_path / ("f" * 64)).mkdir()
    (tmp_path / ("f" * 64) / ".1.weights.tmp").write_bytes(b"half")
    (tmp_path / "notes").mkdir()  # not ours
    Private(tmp_path, "b" * 64, INITIAL).keep(3, INITIAL)
    assert programs(tmp_path) == {"a", "b", "n"}


@pytest.mark.parametrize("damage", [b"", b"short", None, bytes(44)])
def test_what_has_rotted_is_passed_over(tmp_path: Path, damage: bytes | None) -> None:
    private = Private(tmp_path, DIGEST, INITIAL)
    private.keep(1, INITIAL + 1)
    private.keep(2, INITIAL + 2)
    (newest,) = tmp_path.rglob("2.weights")
    content = newest.read_bytes()
    newest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage is None else damage)
    (newest.parent / "notes.weights").write_text("not a round")
    np.testing.assert_array_equal(private.before(3), INITIAL + 1)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "local").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be made: .*; make room on the disk"):
        Private(tmp_path / "local", DIGEST, INITIAL).keep(1, INITIAL)


@pytest.fixture(scope="module")
def headed(small: Compiled) -> Compiled:
    """The program of `small`'s model with its last layer local."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fedfleet.models import compiler, zoo

        model = zoo.tabular(300, 3)
        return compiler.compile(model, small.loss, batch=8, local=[model.layers[-1].name])


@pytest.fixture
def files(headed: Compiled, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "program").write_bytes(headed.program)
    (tmp_path / "weights").write_bytes(headed.shared.astype("<f4").tobytes())
    return tmp_path / "program", tmp_path / "weights"


@pytest.fixture
def task(headed: Compiled) -> Task:
    weights = Blob.of(headed.shared.astype("<f4").tobytes())
    return Task(3, Blob.of(headed.program), weights, Plan(epochs=2, learning_rate=0.05), seed=9)


def trained(task: Task, files: tuple[Path, Path], stored: Path) -> Update:
    update = LocalTrainer("d1", stored).train(task, *files, never)
    assert update is not None
    return update


def test_an_update_holds_the_shared_weights_alone(
    headed: Compiled, files: tuple[Path, Path], task: Task, stored: Path
) -> None:
    program = Program(files[0], headed.digest)
    assert (program.parameters, program.shared) == (headed.weights.size, headed.shared.size)
    assert program.local.size == 99
    update = trained(task, files, stored)
    assert len(update.delta) == 4 * headed.shared.size
    (path,) = (stored.parent / "local").rglob("*.weights")
    assert path.parent.name == headed.digest
    head = path.read_bytes()[: 4 * 99]
    assert head != headed.weights[-99:].tobytes()  # it has learned
    moved = (np.frombuffer(head, "<f4") - headed.weights[-99:]).tobytes()
    for i in range(0, 4 * 98, 4):
        assert head[i : i + 8] not in update.delta
        assert moved[i : i + 8] not in update.delta


def test_a_round_trained_again_gives_the_same_bits(files: tuple[Path, Path], task: Task, stored: Path) -> None:
    first = trained(task, files, stored)
    (path,) = (stored.parent / "local").rglob("3.weights")
    head = path.read_bytes()
    again = trained(task, files, stored)  # power lost between keeping the head and spooling the update
    assert (again.delta, path.read_bytes()) == (first.delta, head)
    later = trained(replace(task, round=4, seed=task.seed), files, stored)
    assert later.metrics["loss"] < first.metrics["loss"]  # same shared weights, but the head goes on from round 3
    assert trained(replace(task, round=4), files, stored).delta == later.delta
    assert trained(task, files, stored).delta == first.delta


@pytest.mark.parametrize("all_of_them", [True, False])
def test_weights_of_another_size_are_refused(
    headed: Compiled, files: tuple[Path, Path], task: Task, stored: Path, all_of_them: bool
) -> None:
    data = (headed.weights if all_of_them else headed.shared[:-1]).astype("<f4").tobytes()
    files[1].write_bytes(data)
    with pytest.raises(ProgramError, match=rf"weights have shape \(\d+,\), the program wants \({headed.shared.size},"):
        LocalTrainer("d1", stored).train(replace(task, weights=Blob.of(data)), *files, never)
    assert not (stored.parent / "local").exists()


def test_a_program_without_local_layers_keeps_nothing(
    small: Compiled, blobs: tuple[Path, Path], task: Task, stored: Path
) -> None:
    plain = replace(task, program=Blob.of(small.program), weights=Blob.of(blobs[1].read_bytes()))
    assert len(trained(plain, blobs, stored).delta) == 4 * small.weights.size
    assert not (stored.parent / "local").exists()


def test_training_that_diverges_leaves_the_head_as_it_was(files: tuple[Path, Path], task: Task, stored: Path) -> None:
    with pytest.raises(ProgramError, match="training diverged"):
        trained(replace(task, plan=Plan(learning_rate=1e30, steps=20)), files, stored)
    assert not (stored.parent / "local").exists()
