"""What is wrong with [refine] of an aggregator, or --refine of a simulation: one line, exit code 2, nothing begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run
from conftest import FEATURES
from processes import environment

from fedfleet.models.compiled import Compiled
from fedfleet.wire.examples import Examples

MODEL = f"""
import tensorflow as tf
from fedfleet.models import zoo
print("words of the model's own")
def build(): return zoo.tabular({FEATURES}, 3)
def wide(): return zoo.tabular({FEATURES + 1}, 3)
def other():
    return tf.keras.models.Sequential([
        tf.keras.Input(({FEATURES},)), *build().layers[:-1], tf.keras.layers.Dense(3, "tanh")
    ])
def loose():
    class Own(tf.keras.Model):
        def call(self, x): return x
    return Own()
"""
FLEET = 'fleet = "mill"\nmodel = "model"\n[broker]\nport = 9\n'
REFINE = '[refine]\nkind = "tune"\ndata = "npz:good.npz"\nmodel = "m.py:build"\n'


@pytest.fixture
def here(tmp_path: Path, small: Compiled, examples: Examples) -> Path:
    small.save(tmp_path / "model")
    (tmp_path / "m.py").write_text(MODEL)
    np.savez(tmp_path / "good.npz", x=examples.x, y=examples.y)
    np.savez(tmp_path / "unlabelled.npz", x=examples.x)
    np.savez(tmp_path / "narrow.npz", x=examples.x[:, 1:], y=examples.y)
    np.savez(tmp_path / "ten.npz", x=examples.x, y=examples.y + 10)
    return tmp_path


REACHED = "no broker at 127.0.0.1:9"  # what comes after all that is looked at here
SETTINGS = {
    "all well": ("", "", REACHED),
    "distil without labels": ('"tune"\ndata = "npz:good', '"distil"\ndata = "npz:unlabelled', REACHED),
    "unknown kind": ('"tune"', '"polish"', "kind must be tune or distil, not 'polish'"),
    "no round is due": ('"m.py:build"', '"m.py:build"\nevery = 0', "every must be at least 1"),
    "gate without data": ('"m.py:build"', '"m.py:build"\ngate = "loss"', "set evaluation.data"),
    "gate of another model": (
        '"m.py:build"\n',
        '"m.py:build"\ngate = "rmse"\n[evaluation]\ndata = "npz:good.npz"\n',
        "refine.gate 'rmse' is none of this model's: take accuracy or loss",
    ),
    "labels are missing": ("good.npz", "unlabelled.npz", "has no array 'y', only x: write it with numpy.savez"),
    "no such data": ("good.npz", "none.npz", "none.npz cannot be read (No such file or directory)"),
    "data of another shape": ("good.npz", "narrow.npz", "refine.data: examples have shape [299]"),
    "labels beyond the model's": ("good.npz", "ten.npz", "outside 0..2"),
    "no such model": ("m.py:build", "none.py:build", "none.py: no such file"),
    "no such function": ("m.py:build", "m.py:nothing", "define def nothing()"),
    "another model": ("m.py:build", "m.py:other", "the model is not the program's"),
    "a model of another shape": ("m.py:build", "m.py:wide", "the model takes [301] and gives [3], the program takes"),
    "a model without a graph": ("m.py:build", "m.py:loose", "is a subclass without a graph of layers"),
    "more replicas than can be": ('"m.py:build"', '"m.py:build"\nreplicas = 65', "65 replicas"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_aggregate(case: str, here: Path) -> None:
    old, new, text = SETTINGS[case]
    (here / "fleet.toml").write_text(FLEET + REFINE.replace(old, new, 1))
    said = run("aggregate", str(here / "fleet.toml"))
    assert said.startswith("refused: ") and "\n" not in said
    assert text in said
    assert (here / "state").exists() == (text == REACHED)


def test_tensorflow_and_the_models_file_are_silent(here: Path) -> None:
    (here / "fleet.toml").write_text(FLEET + REFINE.replace("build", "other"))
    command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(here / "fleet.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)
    assert ended.returncode == 2
    assert ended.stdout == "fedfleet aggregate: fleet mill, 20 rounds of fedavg\n"
    assert ended.stderr == (
        "fedfleet: the model is not the program's: it gives something else for the same weights; "
        "name the model that was compiled\n"
    )


SIMULATE = {
    "unknown kind": (["--refine", "polish"], "kind must be tune or distil"),
    "unknown key": (["--refine", "tune:data=x"], "write KIND or KIND:KEY=VALUE,..."),
    "no round is due": (["--refine", "tune:every=0"], "every must be at least 1"),
    "no data": (
        ["--refine", "distil", "--cloud-share", "0"],
        "the cloud has no data; set some aside: --cloud-share 0.1",
    ),
    "all the data": (["--cloud-share", "0.95"], "must be 0 to 0.9 of the training data, not 0.95"),
    "less than none": (["--cloud-share", "-0.1"], "must be 0 to 0.9 of the training data, not -0.1"),
    "less than one": (["--cloud-share", "0.0001"], "0.0001 of them are none"),
    "a rule": (["--refine", "distil", "--strategy", "median"], "also those that median keeps out"),
}


@pytest.mark.parametrize("case", SIMULATE)
def test_simulate(case: str, tmp_path: Path) -> None:
    options, text = SIMULATE[case]
    said = run("simulate", "--cloud-share", "0.1", *options, "--out", str(tmp_path / "runs"))
    assert said.startswith("refused: ") and text in said and "\n" not in said
    assert not (tmp_path / "runs").exists()
