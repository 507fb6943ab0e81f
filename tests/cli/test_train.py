"""`fedfleet train` at the terminal: what comes of it is what devices begin from, and mistakes cost one line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import run
from processes import environment

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import versions
from fedfleet.models.compiled import Compiled, load
from fedfleet.sim.baselines import Job
from fedfleet.sim.baselines import train as centrally
from fedfleet.sim.datasets import load as dataset
from fedfleet.sim.datasets import whole
from fedfleet.wire.errors import DataError
from fedfleet.wire.messages import Plan

MODEL = """
import tensorflow as tf
L = tf.keras.layers
def build():
    return tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(4, activation="tanh"), L.Dense(2)])
def other():
    return tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(5, activation="tanh"), L.Dense(2)])
def three():
    return tf.keras.Sequential([tf.keras.Input((3,)), L.Dense(2)])
def strange():
    return tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(2, kernel_regularizer="l2")])
"""
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 2)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.int64)
    np.savez(tmp_path / "good.npz", x=x, y=y)
    np.savez(tmp_path / "other.npz", x=x[:50] + 0.01, y=y[:50])
    np.savez(tmp_path / "unlabelled.npz", x=x)
    np.savez(tmp_path / "five.npz", x=x, y=np.arange(200) % 5)
    np.savez(tmp_path / "targets.npz", x=x, y=100 * x.sum(1))
    (tmp_path / "data.csv").write_text("a,b,label\n" + "1,2,0\n-3,4,1\n" * 20)
    (tmp_path / "m.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def train(*more: str) -> str:
    return run("train", "--model", "m.py:build", "--data", "npz:good.npz", "--out", "out", *more)


def result(said: str) -> dict[str, float]:
    """The numbers of the last line."""
    last = said.splitlines()[-1]
    assert last.startswith("result "), said
    return {name: float(value) for name, value in re.findall(r"(\S+)=(\S+)", last)}


def test_digits_are_learned_as_well_as_in_one_place_on_the_device_program(here: Path) -> None:
    """Central training as `fedfleet simulate` measures it: the device program itself, on all data, the same passes."""
    found = result(run("train", "--out", "out", "--epochs", "12", "--batch", "16", "--json", "facts.json"))
    data, compiled = dataset("digits", 0), load("out")
    facts = json.loads((here / "facts.json").read_text())
    assert facts["training"]["examples"] == len(data.train.x)
    start = run_start(here)
    job = Job(
        Path("out/program.tflite"), compiled.digest, start.weights, Plan(12, learning_rate=0.02, momentum=0.9), 1, 0
    )
    central = evaluator(compiled, data.test)(centrally(job, [data.train]))
    assert found["accuracy"] == pytest.approx(evaluator(compiled, data.test)(compiled.weights)["accuracy"], abs=1e-5)
    assert found["accuracy"] > 0.97
    assert found["accuracy"] >= central["accuracy"] - 0.01


def run_start(here: Path) -> Compiled:
    """The zoo's digits as they are before training."""
    from fedfleet.models import compiler, zoo

    return compiler.compile(zoo.digits(seed=0), "sparse_categorical_crossentropy", batch=16)


def test_an_epoch_is_a_line_and_the_last_line_is_for_machines(here: Path) -> None:
    said = train("--epochs", "2", "--test", "npz:other.npz", "--tensorboard", "events").splitlines()
    assert said[0] == "fedfleet train: npz:good.npz, mirrored, 2 epochs of batches of 64"
    assert [re.sub(r"[\d.]+", "N", line) for line in said[1:3]] == ["epoch N of N: loss N, N s, N steps/s"] * 2
    assert said[3:5] == ["the trained program is in out", "trained by MirroredStrategy, 1 replica"]
    assert set(result(said[-1])) == {"epochs", "train_loss", "loss", "accuracy", "seconds", "version"}
    assert next((here / "events").glob("events.out.tfevents.*")).stat().st_size > 100
    assert len(said) == 6


def test_more_epochs_go_on_from_the_backup(here: Path) -> None:
    train("--epochs", "2")
    said = train("--epochs", "3", "--json", "facts.json")
    assert [line[:7] for line in said.splitlines() if line.startswith("epoch")] == ["epoch 3"]
    assert json.loads((here / "facts.json").read_text())["training"]["resumed"] == 2


def test_a_version_is_made_and_is_what_the_next_training_starts_from(here: Path) -> None:
    said = train("--epochs", "1", "--state", "state")
    assert "the trained program is in out, and is model 1 of state" in said
    program = load("out")
    assert next_start(here) == program.weights.tobytes()
    said = run("train", "--model", "m.py:build", "--data", "npz:good.npz", "--out", "more", "--start", "state:1",
               "--state", "state", "--test", "npz:other.npz")  # fmt: skip
    first, second = versions(here / "state")
    assert (second.round, second.origin, second.before) == (2, 1, first.weights)
    assert (second.training or {})["data"] == "npz:good.npz" and second.scores["accuracy"] > 0.5
    assert "2 from 1" in run("model", "list", "state") and "npz:good.npz" in run("model", "show", "state", "2")
    run("model", "promote", "state", "2")
    assert "exported" in run("model", "export", "state", "promoted", "--out", "exported")
    assert (load("exported").weights == load("more").weights).all()


def next_start(here: Path) -> bytes:
    """The weights that the next round starts from."""
    journal = Journal(here / "state")
    try:
        model = journal.model()
        assert model is not None
        return journal.blobs.get(model.weights)
    finally:
        journal.close()


def test_a_program_s_folder_is_a_start_too_and_targets_keep_their_units(here: Path) -> None:
    options = ("train", "--data", "npz:targets.npz", "--model", "r.py:build", "--learning-rate", "0.001")
    (here / "r.py").write_text(MODEL.replace("L.Dense(2)", "L.Dense(1)"))
    found = result(run(*options, "--out", "out", "--epochs", "3", "--test", "npz:targets.npz"))
    again = result(run(*options, "--out", "more", "--epochs", "1", "--start", "out", "--test", "npz:targets.npz"))
    assert found["rmse"] > again["rmse"] > 10  # targets are in the hundreds
    assert found["train_loss"] > again["train_loss"]


def test_ctrl_c_leaves_a_backup_and_says_where_it_goes_on(here: Path) -> None:
    options = ["train", "--model", "m.py:build", "--data", "npz:good.npz", "--out", "out", "--batch", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedfleet.cli.main", *options, "--epochs", "10000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment() | QUIET, cwd=here,
    )  # fmt: skip
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch 2 "):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    found = re.fullmatch(
        r"fedfleet: interrupted in epoch (\d+) of 10000, step (\d+) of 25; the same command goes on from out/backup\n",
        err,
    )
    assert found, err
    epoch = int(found.group(1))
    said = run(*options, "--epochs", str(epoch + 1))
    lines = [line for line in said.splitlines() if line.startswith("epoch")]
    assert lines[0].startswith((f"epoch {epoch} of", f"epoch {epoch + 1} of"))  # the step may have been its last


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--strategy", "psychic"), "unknown strategy 'psychic'; take one, mirrored, workers"),
        (
            ("--replicas", "2", "--strategy", "one"),
            "--replicas goes with --strategy mirrored or servers; one has none to choose",
        ),
        (("--replicas", "65"), "65 replicas on a CPU are too many; ask for 64 or fewer"),
        (("--epochs", "0"), "epochs must be at least 1, not 0"),
        (("--optimizer", "lion"), "unknown optimizer 'lion'"),
        (("--loss", "hinge"), "unknown loss 'hinge'"),
        (("--data", "npz:none.npz"), "none.npz cannot be read"),
        (("--data", "npz:unlabelled.npz"), "unlabelled.npz has no array 'y'"),
        (("--data", "csv:data.csv"), "data.csv needs its label column named: write csv:data.csv?label=COLUMN"),
        (("--data", "npz:five.npz"), "has label 4, outside 0..1"),
        (("--test", "npz:five.npz"), "has label 4, outside 0..1"),
        (("--data", "npz:targets.npz", "--loss", "sparse_categorical_crossentropy"), "takes class labels"),
        (("--data", "digits"), "examples have shape [8, 8, 1], the model takes [2]"),
        (("--data", "digits", "--test", "npz:good.npz"), "digits brings its own examples to test on"),
        (("--model", "m.py:three"), "examples have shape [2], the model takes [3]"),
        (("--model", "m.py:strange"), "its kernel_regularizer would not act on a device"),
        (("--model", "nowhere.py:build"), "nowhere.py: no such file"),
        (("--start", "nowhere"), "nothing to start from at 'nowhere'; name a program's folder, or STATE:MODEL"),
        (("--start", "nowhere:3"), "nowhere/journal.sqlite: no such journal"),
        (("--out", "m.py"), "m.py: cannot be written"),
        (("--backup", "m.py/x"), "m.py/x: cannot be written"),
    ],
)
def test_mistakes_cost_one_line(here: Path, options: tuple[str, ...], says: str) -> None:
    said = train(*options)
    assert said.startswith("refused: ") and says in said and len(said.splitlines()) == 1
    assert not (here / "out" / "program.json").exists()


def test_a_start_of_another_model_is_refused(here: Path) -> None:
    train("--epochs", "1")
    said = run("train", "--model", "m.py:other", "--data", "npz:good.npz", "--out", "more", "--start", "out")
    assert said == "refused: the layout is not the model's: their trainable weights differ in number or shape"


def test_another_job_is_not_mixed_with_the_backup(here: Path) -> None:
    train("--epochs", "1")
    assert "holds the backups of another job, with another learning_rate" in train("--learning-rate", "0.5")


def test_a_batch_that_does_not_divide_is_refused_before_anything_trains(here: Path) -> None:
    command = [sys.executable, "-m", "fedfleet.cli.main", "train", "--replicas", "3", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment() | QUIET, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "fedfleet: a batch of 64 does not divide by 3 replicas; take one that does, such as 63\n"


def test_a_state_folder_in_use_is_refused(here: Path) -> None:
    journal = Journal(here / "state")
    assert "state is in use; is another aggregator using this folder? stop it first" in train("--state", "state")
    journal.close()


def test_whole_data_are_what_the_file_has(here: Path) -> None:
    found = whole("npz:targets.npz", "", 0)
    assert (len(found.train.x), len(found.test.x), found.classes) == (200, 0, None)
    assert abs(found.train.y).max() > 100
    labelled = whole("npz:good.npz", "npz:other.npz", 0)
    assert (len(labelled.train.x), len(labelled.test.x), labelled.classes) == (200, 50, 2)
    assert len(whole("digits", "", 0).test.x) == len(dataset("digits", 0).test.x)
    with pytest.raises(DataError, match="is not of a known kind"):
        whole("tar:x", "", 0)
