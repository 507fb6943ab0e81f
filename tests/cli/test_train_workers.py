"""`fedfleet train --strategy workers`: two processes that find each other, lose each other, and end as if nothing was."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import environment

from fedfleet.cli.course import Wanted, job_of
from fedfleet.cli.engine import facts
from fedfleet.cloud.training.workers import meet, parse
from fedfleet.sim import datasets

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"}
MODEL = """
import tensorflow as tf
def build():
    L = tf.keras.layers
    return tf.keras.Sequential([tf.keras.Input((8, 8, 1)), L.Flatten(), L.Dense(16, activation="tanh"), L.Dense(10)])
"""


def config(addresses: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def free(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def begin(here: Path, tf_config: str, out: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "train", "--model", "m.py:build", "--out", out]
    env = environment() | QUIET | {"TF_CONFIG": tf_config}
    return subprocess.Popen(
        [*command, "--strategy", "workers", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here, env=env,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text(MODEL)
    return tmp_path


def both(here: Path, name: str, epochs: int) -> list[subprocess.Popen[str]]:
    addresses = free(2)
    return [begin(here, config(addresses, i), f"{name}{i}", "--epochs", str(epochs)) for i in range(2)]


def until(process: subprocess.Popen[str], text: str) -> None:
    """Read on until it has said that."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(text):
            return
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("victim", [1, 0])
def test_a_worker_that_is_killed_comes_back_and_the_end_is_the_same(here: Path, victim: int) -> None:
    epochs = 30
    addresses = free(2)
    options = ("--epochs", str(epochs))
    processes = [begin(here, config(addresses, i), f"out{i}", *options) for i in range(2)]
    until(processes[victim], "epoch 2 of")
    processes[victim].send_signal(signal.SIGKILL)
    processes[victim].communicate(timeout=30)
    processes[victim] = begin(here, config(addresses, victim), f"out{victim}", *options)
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "was lost; waiting for all workers, to go on from the backup" in said[1 - victim][1]
    assert said[0][0].splitlines()[-1].startswith(f"result epochs={epochs} ")
    assert said[1][0].splitlines()[-1] == "done: the first worker has the result"
    assert json.loads((here / "out0" / "backup" / "job.json").read_text())["batch"] == 64
    undisturbed = both(here, "whole", epochs)
    assert [process.communicate(timeout=240)[1] for process in undisturbed] == ["", ""]
    assert (here / "out0" / "weights.bin").read_bytes() == (here / "whole0" / "weights.bin").read_bytes()


def test_a_worker_that_never_comes_is_named(here: Path) -> None:
    addresses = free(2)
    process = begin(here, config(addresses, 0), "out", "--wait", "1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == (
        f"fedfleet: {addresses[1]} did not come within 1 s; start what is missing with the same command, "
        "or wait longer (--wait)\n"
    )


def test_a_worker_that_goes_between_the_meeting_and_tensorflow_is_no_reason_to_wait_for_ever(here: Path) -> None:
    """TensorFlow would wait for it without an end, and hear no signal; so this process is ended, and it is said why."""
    addresses = free(2)
    process = begin(here, config(addresses, 0), "out", "--wait", "25")
    given = Wanted(
        data="digits", test="", model="m.py:build", start="", strategy="workers", replicas=0, mesh="", epochs=10,
        batch=64, optimizer="momentum", learning_rate=0.02, seed=0, loss="", device_batch=16, local=(), frozen="float32",
        out=here / "x", state=None, backup=here / "x", tensorboard=None, wait=60.0,
    )  # fmt: skip
    meet(parse(config(addresses, 1)), facts(job_of(given, datasets.whole("digits", "", 0), None)), given.wait)
    _, err = process.communicate(timeout=150)
    assert process.returncode == -signal.SIGKILL
    assert err == (
        "fedfleet: a worker that was there has gone while TensorFlow began; start this one again, it waits for all\n"
    )


def test_a_worker_with_other_options_is_refused(here: Path) -> None:
    addresses = free(2)
    processes = [begin(here, config(addresses, i), f"out{i}", "--seed", str(i)) for i in range(2)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    for index in range(2):
        assert said[index].startswith(f"fedfleet: {addresses[1 - index]} trains another job; start all workers with")


@pytest.mark.parametrize(
    ("tf_config", "more", "says"),
    [
        ("", (), "TF_CONFIG is not set, and says who trains together"),
        ("{", (), "TF_CONFIG is malformed"),
        (config(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], 0), (), "does not divide by 3 workers"),
        ("", ("--replicas", "2"), "--replicas goes with --strategy mirrored; workers has none to choose"),
        ("", ("--wait", "0"), "wait must be above 0 seconds, not 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(here: Path, tf_config: str, more: tuple[str, ...], says: str) -> None:
    process = begin(here, tf_config, "out", *more)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (here / "out").exists()
