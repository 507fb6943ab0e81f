"""`fedfleet model evaluate`: each way to score versions says what central evaluation says of them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run
from processes import environment

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import programs_of
from fedfleet.models.compiled import Compiled, load
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan, Task

MODELS = """
import tensorflow as tf
L = tf.keras.layers
def drawn(seed):
    return tf.keras.initializers.RandomNormal(stddev=0.5, seed=seed)
def cnn(activation="relu"):
    return tf.keras.Sequential([
        tf.keras.Input((8, 8, 1)), L.Conv2D(4, 3, activation=activation, kernel_initializer=drawn(1)), L.MaxPool2D(),
        L.Flatten(), L.Dense(3, activation="softmax", kernel_initializer=drawn(2)),
    ])
def other():
    return cnn("tanh")
def wide():
    return tf.keras.Sequential([tf.keras.Input((8, 8, 1)), L.Flatten(), L.Dense(3)])
"""
HELD = 300  # more than a batch


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with m.py, held.npz, and the state of a federation that has made five models, two of them nameless."""
    folder = tmp_path_factory.mktemp("versions")
    (folder / "m.py").write_text(MODELS)
    random = np.random.default_rng(0)
    np.savez(folder / "held.npz", x=random.random((HELD, 8, 8, 1), np.float32), y=random.integers(0, 3, HELD))
    with warnings.catch_warnings():  # TensorFlow's own
        warnings.simplefilter("ignore")
        from fedfleet.models import compiler, source

        compiled = compiler.compile(source.build(f"{folder}/m.py:cnn"), "sparse_categorical_crossentropy", batch=8)
    journal = Journal(folder / "state")
    compiled.save(programs_of(folder / "state") / compiled.digest)
    for number in range(1, 6):
        weights = compiled.weights + random.normal(0, 0.3 * number, compiled.weights.size).astype(np.float32)
        weights = weights if number < 5 else np.full_like(weights, np.nan)
        task = Task(number, journal.blobs.put(compiled.program), journal.blobs.put(weights.tobytes()), Plan())
        journal.open_round(task, "fedavg")
        journal.close_round(number, weights.tobytes(), b"moments")
    journal.close()
    return folder


def central(folder: Path, found: list[dict[str, Any]]) -> list[dict[str, float]]:
    """What the aggregator's own evaluator says of them."""
    data = np.load(folder / "held.npz")
    compiled = load(next(programs_of(folder / "state").iterdir()))
    score = evaluator(compiled, Examples(data["x"], data["y"].astype(np.int32)))
    return [score(weights(folder, compiled, each["weights"])) for each in found]


def weights(folder: Path, compiled: Compiled, digest: str) -> Any:
    return np.frombuffer((folder / "state" / "blobs" / digest).read_bytes(), "<f4")


def fedfleet(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "model", "evaluate", "state", *arguments]
    shell = environment() | {"CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run(command, capture_output=True, text=True, env=shell, cwd=folder, timeout=240, check=False)


@pytest.mark.parametrize("way", [[], ["--model", "m.py:cnn"], ["--model", "m.py:cnn", "--replicas", "2"]])
def test_scores_are_those_of_central_evaluation(here: Path, way: list[str]) -> None:
    done = fedfleet(here, "--data", "npz:held.npz", "--json", *way)
    assert (done.returncode, done.stderr.splitlines()) == (
        0, ["fedfleet model evaluate: all that are kept on npz:held.npz"],
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert [each["round"] for each in found][-3:] == [3, 4, 5]
    for each, wanted in zip(found[:-1], central(here, found)):
        assert each["scores"] == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert found[-1]["scores"]["loss"] is None
    assert len({each["scores"]["loss"] for each in found}) == len(found)


def test_versions_are_chosen_by_round_and_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    run("model", "promote", "state", "3", "--force")
    table = run("model", "evaluate", "state", "4", "promoted", "3", "--data", "npz:held.npz").splitlines()
    assert table[0] == "fedfleet model evaluate: 4, promoted, 3 on npz:held.npz"
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in table if row.startswith("│")]
    assert cells[0] == ["model", "loss", "accuracy", "names"]
    assert [(row[0], row[3]) for row in cells[1:]] == [("3", "promoted"), ("4", "")]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["9"], "no model '9'; kept are "),
        (["1"], "is missing or damaged; choose a version that is kept"),
        (["--model", "m.py:other"], "m.py:other is not the model of program"),
        (["--model", "m.py:wide"], "the layout is not the model's"),
        (["--model", "m.py:none"], "has no function 'none'"),
        (["--replicas", "2"], "replicas run a Keras model: name it with --model FILE.py:FUNCTION"),
        (["--model", "m.py:cnn", "--replicas", "0"], "replicas must be a number of devices, or -1 for all GPUs"),
        (["--model", "m.py:cnn", "--replicas", "65"], "65 replicas on a CPU are too many"),
    ],
)
def test_mistakes_take_one_line(here: Path, arguments: list[str], reason: str) -> None:
    done = fedfleet(here, "--data", "npz:held.npz", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert reason in done.stderr


def test_a_folder_without_models_says_so(tmp_path: Path, here: Path) -> None:
    Journal(tmp_path / "state").close()
    done = fedfleet(tmp_path, "--data", f"npz:{here}/held.npz")
    assert done.returncode == 2
    assert "state keeps no model yet: the first one comes with the first round that closes" in done.stderr
