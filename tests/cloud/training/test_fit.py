"""Any number of replicas trains as one does, and a training that was ended goes on as if nothing had been."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from processes import environment

from fedfleet.wire.errors import FedfleetError, ModelError, SettingsError, StoreError

pytestmark = pytest.mark.filterwarnings("ignore:non-integer arguments:DeprecationWarning")  # of Keras 2's own seeds
CHILD = Path(__file__).with_name("fitted.py")
Arrays = dict[str, np.ndarray]
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def child(folder: Path, strategy: str, replicas: int, model: str, **more: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(CHILD), str(folder), strategy, str(replicas), model]
    env = environment() | QUIET | more
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def done(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=170)
    assert process.returncode == 0, err[-2000:]
    return out


def weights(folder: Path) -> Arrays:
    with np.load(folder / "weights.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("arr_")}


def apart(a: Arrays, b: Arrays) -> float:
    """The greatest difference between two trainings' weights, relative to the greatest weight."""
    assert a.keys() == b.keys() and len(a) > 2
    scale = max(float(abs(each).max()) for each in a.values())
    return max(float(abs(a[name] - b[name]).max()) for name in a) / scale


@pytest.fixture(scope="module")
def fitted() -> ModuleType:
    """The child's module, in this process: for what needs no parts of the CPU."""
    spec = importlib.util.spec_from_file_location("fitted", CHILD)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def train(fitted: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """Train in this process, in a folder of its own if not told otherwise: `train(model, tell=..., **options)`."""

    def run(model: str = "digits", folder: str = "here", tell: Any = lambda _: None, **options: Any) -> Any:
        under = fitted.central.strategy("one", 0)
        return fitted.fit(fitted.job(tmp_path / folder, model, **options), under, tell)

    return run


def flat(trained: Any) -> Arrays:
    return {f"arr_{number}": each for number, each in enumerate(trained.weights)}


def test_two_and_four_replicas_train_as_one(tmp_path: Path, train: Callable[..., Any]) -> None:
    one = train()
    for count in (2, 4):
        said = done(child(tmp_path / str(count), "mirrored", count, "digits"))
        assert said.splitlines()[-1] == f"MirroredStrategy, {count} replicas"
        assert apart(flat(one), weights(tmp_path / str(count))) < 1e-6


@pytest.mark.parametrize("loss", ["mean_squared_error", "binary_crossentropy"])
def test_other_losses_and_optimizers_are_shared_out_alike(tmp_path: Path, train: Callable[..., Any], loss: str) -> None:
    one = train("unseeded", loss=loss, optimizer="sgd")
    done(child(tmp_path / "2", "mirrored", 2, "unseeded", LOSS=loss, OPTIMIZER="sgd"))
    assert apart(flat(one), weights(tmp_path / "2")) < 1e-6


# Adam divides what may be next to nothing by its own size
@pytest.mark.parametrize(("optimizer", "most"), [("sgd", 2e-6), ("momentum", 2e-6), ("adam", 5e-5)])
def test_a_step_is_that_of_keras_on_the_examples_that_there_are(
    fitted: ModuleType, train: Callable[..., Any], tmp_path: Path, optimizer: str, most: float
) -> None:
    """The last batch too, which has 13 examples of 16: Keras, alone, is given just these."""
    import tensorflow as tf

    found = train(optimizer=optimizer)
    job = fitted.job(tmp_path, optimizer=optimizer)
    model = job.build()
    model.compile(fitted.optimizer(job), tf.keras.losses.SparseCategoricalCrossentropy())
    for epoch in range(job.epochs):
        for rows, weight in zip(job.rows(epoch), job.weight):
            model.train_on_batch(job.examples.x[rows[weight > 0]], job.examples.y[rows[weight > 0]])
    assert apart(flat(found), {f"arr_{n}": each for n, each in enumerate(model.get_weights())}) < most


def test_an_interrupt_leaves_a_backup_and_the_next_start_goes_on_from_there(train: Callable[..., Any]) -> None:
    whole, seen = train(folder="whole"), list[tuple[int, int]]()

    def interrupt(passed: Any) -> None:
        if (passed.epoch, passed.step) == (2, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tell=interrupt)
    again = train(tell=lambda passed: seen.append((passed.epoch, passed.step)))
    assert seen[0] == (2, 2)  # of 3 steps
    assert again.resumed == 1
    assert again.losses == whole.losses[1:]
    assert apart(flat(whole), flat(again)) == 0


def test_a_killed_training_goes_on_from_its_last_epoch(tmp_path: Path, train: Callable[..., Any]) -> None:
    process = child(tmp_path / "here", "one", 0, "digits", EPOCHS="500")
    assert process.stdout is not None
    while process.stdout.readline().strip() != "epoch 2":
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    seen = list[int]()
    again = train(tell=lambda passed: seen.append(passed.epoch), epochs=(epochs := 40))
    assert again.resumed >= 2 and seen[0] == again.resumed + 1
    assert apart(flat(train(folder="whole", epochs=epochs)), flat(again)) == 0


def test_what_is_trained_already_is_not_trained_again_and_more_epochs_are(train: Callable[..., Any]) -> None:
    first, again = train(), train()
    assert (again.losses, again.resumed) == ((), 3)
    assert apart(flat(first), flat(again)) == 0
    assert len(train(epochs=5).losses) == 2


def test_a_model_without_a_seed_is_the_same_model_again(train: Callable[..., Any]) -> None:
    train("unseeded", epochs=1)
    assert apart(flat(train("unseeded")), flat(train("unseeded", folder="whole"))) == 0


def test_the_backups_of_another_job_are_left_alone(train: Callable[..., Any], tmp_path: Path) -> None:
    train(epochs=1)
    before = sorted((tmp_path / "here" / "backup").iterdir())
    for options, other in (
        ({"batch": 15}, "batch"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"model": "unseeded"}, "start"),
    ):
        with pytest.raises(
            SettingsError, match=f"backup holds the backups of another job, with another {other}; choose"
        ):
            train(**options)
    assert sorted((tmp_path / "here" / "backup").iterdir()) == before


def test_a_damaged_backup_is_refused(train: Callable[..., Any], tmp_path: Path) -> None:
    train(epochs=1)
    for path in (tmp_path / "here" / "backup").glob("ckpt-*.index"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="holds a damaged backup .* remove that folder"):
        train()


def test_a_folder_that_cannot_be_made_is_refused(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "here").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be made"):
        train()


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"loss": "hinge"}, ModelError, "unknown loss 'hinge'; use sparse_categorical_crossentropy or"),
        (
            {"model": "unseeded", "loss": "mean_squared_error", "learning_rate": 1e20},
            ModelError,
            "the loss is (nan|inf) after epoch 1; train at a lower learning rate",
        ),
    ],
)
def test_what_does_not_train_is_refused(
    train: Callable[..., Any], options: dict[str, Any], kind: type[FedfleetError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        train(**options)


def test_two_workers_train_as_one_process_and_the_first_has_the_backups(
    tmp_path: Path, train: Callable[..., Any], free: Callable[[int], list[str]]
) -> None:
    cluster = {"worker": free(2)}
    both = [
        child(tmp_path / str(index), "workers", 0, "digits",
              TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}))
        for index in range(2)
    ]  # fmt: skip
    said = [done(process).splitlines()[-1] for process in both]
    assert said == ["CollectiveAllReduceStrategy, 2 replicas"] * 2
    first, second = (weights(tmp_path / str(index)) for index in range(2))
    assert apart(first, second) == 0
    assert apart(flat(train(folder="alone")), first) < 1e-6
    assert [(tmp_path / str(index) / "backup").exists() for index in range(2)] == [True, False]


def test_the_first_worker_s_backup_is_enough_for_all(
    tmp_path: Path, train: Callable[..., Any], free: Callable[[int], list[str]]
) -> None:
    """It was made by one process with one replica, so this is also how a training moves to more machines."""
    train(folder="0", epochs=2)
    shutil.rmtree(tmp_path / "1", ignore_errors=True)
    cluster = {"worker": free(2)}
    both = [
        child(tmp_path / str(index), "workers", 0, "digits",
              TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}))
        for index in range(2)
    ]  # fmt: skip
    assert [done(process).splitlines()[0] for process in both] == ["epoch 3"] * 2
    assert apart(flat(train(folder="whole")), weights(tmp_path / "1")) < 1e-6


def test_weights_that_move_without_a_gradient_come_out_too(
    fitted: ModuleType, train: Callable[..., Any], tmp_path: Path
) -> None:
    job, target = fitted.job(tmp_path, "normalized"), fitted.central.Target("sparse_categorical_crossentropy", 8)
    before = fitted.central.prepared(job, target, job.examples)
    after = fitted.central.finished(job, target, before, train("normalized"))
    assert after.digest != before.digest  # the program holds them
    plain = fitted.job(tmp_path, "digits")
    before = fitted.central.prepared(plain, target, plain.examples)
    after = fitted.central.finished(plain, target, before, train("digits", folder="plain"))
    assert after.digest == before.digest and (after.weights != before.weights).any()
