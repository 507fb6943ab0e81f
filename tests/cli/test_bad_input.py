"""What a person gets wrong: one line that says what and how to mend it, exit code 2, no traceback, nothing started."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, environment

from fedfleet.models.compiled import Compiled, Entry

SMALL_MODEL = """
import tensorflow as tf
def build():
    L = tf.keras.layers
    return tf.keras.Sequential([tf.keras.Input((2,)), L.Dense(2)])
def lost(): return 3
def wide():
    return tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Reshape((1, 2)), tf.keras.layers.Dense(2)])
"""
FLEET = 'fleet = "f"\nmodel = "model"\n'


def fedfleet(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd, timeout=120, check=False)


def refused(result: subprocess.CompletedProcess[str], text: str) -> None:
    """One line on stderr with `text` in it, and exit code 2."""
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr
    assert text in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr


@pytest.fixture
def here(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)).astype(np.float32), rng.integers(0, 2, 60)
    np.savez(tmp_path / "good.npz", x=x, y=y)
    np.savez(tmp_path / "nan.npz", x=np.where(np.arange(120).reshape(60, 2) == 7, np.nan, x), y=y)
    np.savez(tmp_path / "five.npz", x=x, y=np.arange(60) % 5)
    np.savez(tmp_path / "targets.npz", x=x, y=x.astype(np.float32))
    np.savez(tmp_path / "negative.npz", x=x, y=y - 1)
    (tmp_path / "data.csv").write_text("a,b,label\n" + "1,2,0\n3,4,1\n" * 20)
    (tmp_path / "m.py").write_text(SMALL_MODEL)
    return tmp_path


SIMULATE = {
    "missing file": (["--data", "npz:none.npz"], "none.npz cannot be read (No such file or directory)"),
    "unknown kind of data": (["--data", "tar:x"], "write one of"),
    "no label column": (["--data", "csv:data.csv?label=price"], "price"),
    "label column not named": (["--data", "csv:data.csv"], "label"),
    "NaN": (["--data", "npz:nan.npz"], "nan.npz: x row 3, column 1 (from 0) is nan"),
    "negative label": (["--data", "npz:negative.npz"], "labels start at 0; give floats for targets"),
    "label out of the model's range": (
        ["--data", "npz:five.npz", "--model", "m.py:build"],
        "has label 4, outside 0..1",
    ),
    "model of another shape": (["--data", "digits", "--model", "m.py:build"], "the model takes [2]"),
    "output that does not fit": (
        ["--data", "npz:good.npz", "--model", "m.py:wide"],
        "loss sparse_categorical_crossentropy",
    ),
    "targets for labels": (["--data", "npz:targets.npz", "--model", "m.py:wide"], "[1, 2]"),
    "mnist that is not there": (["--data", "mnist:none"], "none"),
    "turbofan that is not there": (["--data", "turbofan:none"], "none"),
    "unknown split": (["--split", "fair"], "write iid, dirichlet:ALPHA or natural"),
    "unknown strategy": (["--strategy", "fedmagic"], "known: fedavg, fedavgm, fedprox"),
    "strategy without its number": (["--strategy", "krum"], "strategy 'krum': write it as krum:BAD"),
    "unknown engine": (["--engine", "smoke"], "known: mqtt, loopback"),
    "no broker": (["--broker", "127.0.0.1:9"], "no broker at 127.0.0.1:9: Connection refused; start one"),
    "rate of nothing": (["--learning-rate", "0"], "learning_rate must be above 0"),
    "no rounds": (["--rounds", "0"], "total must be at least 1"),
    "missing model": (["--model", "none.py:build"], "none.py: no such file"),
    "not a model": (["--model", "m.py:lost"], "m.py"),
}


@pytest.mark.parametrize("case", SIMULATE)
def test_simulate(case: str, here: Path) -> None:
    options, text = SIMULATE[case]
    refused(fedfleet("simulate", "--devices", "2", "--rounds", "1", *options, cwd=here), text)


def test_a_port_that_is_taken(here: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = fedfleet("simulate", "--broker", f"amqtt:{port}", cwd=here)
    refused(result, f"port {port} cannot be had (Address already in use); name another")


def test_an_out_folder_that_cannot_be_made(here: Path) -> None:
    (here / "file").write_text("")
    refused(fedfleet("simulate", "--out", "file/runs", cwd=here), "file")


COMPILE = {
    "missing file": ("none.py:build", "none.py: no such file"),
    "missing function": ("m.py:nothing", "define def nothing()"),
    "output that does not fit": ("m.py:wide", "needs one output per class"),
    "not a model": ("m.py:lost", "m.py"),
}


@pytest.mark.parametrize("case", COMPILE)
def test_compile(case: str, here: Path) -> None:
    model, text = COMPILE[case]
    refused(fedfleet("compile", *model.split(), "--out", "built", cwd=here), text)
    assert not (here / "built").exists()


def test_compile_says_what_it_wants(here: Path) -> None:
    result = fedfleet("compile", "m.py:build", cwd=here)
    assert result.returncode == 2
    assert "Missing option '--out'" in result.stderr
    assert "Traceback" not in result.stderr


AGGREGATE = {
    "unknown key": (FLEET + 'strategi = "fedavg"\n', "unknown setting strategi"),
    "unknown nested key": (FLEET + '[broker]\nhots = "x"\n', "unknown setting broker.hots"),
    "wrong type": (FLEET + '[rounds]\ntotal = "ten"\n', "rounds.total must be int, not str"),
    "missing key": ('fleet = "f"\n', "model is missing"),
    "not TOML": ("fleet = \n", "not TOML"),
    "odd fleet name": ('fleet = "F/1"\nmodel = "model"\n', "fleet must be 1 to 36 characters"),
    "unknown strategy": (FLEET + 'strategy = "x"\n', "unknown strategy 'x'; known: fedavg"),
    "unknown codec": (FLEET + '[plan]\ncodec = "zip"\n', "unknown codec 'zip'; known: float32"),
    "no broker": (FLEET + "[broker]\nport = 9\n", "no broker at 127.0.0.1:9: Connection refused"),
    "no model": ('fleet = "f"\nmodel = "nowhere"\n', "nowhere"),
    "no held-out data": (FLEET + '[evaluation]\ndata = "npz:none.npz"\n', "none.npz cannot be read"),
    "quorum above the devices": (
        FLEET + "[rounds]\ndevices = 3\nquorum = 4\n",
        "rounds.quorum takes 4 updates, and a round calls about 3 (rounds.devices 3); raise rounds.devices to at least 4",
    ),
    "Krum with too few devices": (
        FLEET + 'strategy = "krum:1"\n[rounds]\ndevices = 4\n',
        "strategy takes 5 updates, and a round calls about 4 (rounds.devices 4); raise rounds.devices to at least 5",
    ),
    "a gate by another metric": (
        FLEET + '[evaluation]\nevery = 1\ngate = "accuracy"\n',
        "evaluation.gate 'accuracy' is none of this model's: take rmse or loss",
    ),
    "password not set": (
        FLEET + '[broker]\nusername = "u"\npassword_env = "NOT_SET_AT_ALL"\n',
        "NOT_SET_AT_ALL, which is not set",
    ),
}


REACHED = ("no broker", "password not set")  # what is looked at once the state folder has been opened


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("aggregate")
    layout = (Entry("w", (2,), 0, 2),)
    weights = np.zeros(2, np.float32)
    Compiled(b"not a program", weights, layout, "mean_squared_error", 4, (2,), (1,)).save(folder / "model")
    yield folder


@pytest.mark.parametrize("case", AGGREGATE)
def test_aggregate(case: str, model: Path, tmp_path: Path) -> None:
    settings, text = AGGREGATE[case]
    path = model / f"{case.replace(' ', '-')}.toml"
    path.write_text(settings)
    before = {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    refused(fedfleet("aggregate", str(path), cwd=tmp_path), text)
    after = {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    made = {file.parent.name for file in after.keys() - before.keys()}
    assert before.items() <= after.items()
    assert made <= ({"state"} if case in REACHED else set())


def test_missing_settings_and_unknown_verbs(tmp_path: Path) -> None:
    refused(fedfleet("aggregate", "none.toml", cwd=tmp_path), "none.toml: no such settings file")
    result = fedfleet("agregate", cwd=tmp_path)
    assert result.returncode == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize("verb", [[], ["simulate"], ["compile"], ["aggregate"]])
def test_help_has_examples(verb: list[str]) -> None:
    result = fedfleet(*verb, "--help", cwd=ROOT)
    assert result.returncode == 0
    assert "fedfleet" in result.stdout
    assert not verb or "examples" in result.stdout
