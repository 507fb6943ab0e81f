"""Replicas by the settings of an aggregator and by `fedfleet simulate`: whole runs, and what a person gets wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from processes import environment

from fedfleet.cloud.registry import versions
from fedfleet.edge.agent import Agent, birth, death
from fedfleet.edge.state import State
from fedfleet.models.compiled import Compiled, Entry
from fedfleet.sim import brokers
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Will
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TOPICS = Topics("mill")
NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}
MODEL = Compiled(b"program", np.zeros(40, np.float32), (Entry("w", (40,), 0, 40),), "mean_squared_error", 4, (2,), (1,))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with brokers.running("auto", tmp_path) as found:
        yield found.broker


def settings(folder: Path, port: int = 1883, mqtt: int = 5, more: str = "") -> Path:
    MODEL.save(folder / "model")
    head = f'fleet = "mill"\nmodel = "model"\n{more}\n[rounds]\ntotal = 3\ndevices = 2\ndeadline = 60\n'
    (folder / "fleet.toml").write_text(f"{head}[broker]\nport = {port}\nmqtt = {mqtt}\n[combine]\nreplicas = 2\n")
    return folder / "fleet.toml"


def fedfleet(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", *arguments]
    shell = environment() | NO_GPU
    return subprocess.run(command, capture_output=True, text=True, env=shell, cwd=cwd, timeout=240, check=False)


@contextmanager
def aggregating(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(path)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment() | NO_GPU, text=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def device(name: str, folder: Path, broker: Broker) -> Iterator[None]:
    state, over = State(folder / name), Event()
    state.begin()
    bus = MqttBus(broker, name, Will(TOPICS.status(name), birth(state), death(state)))
    thread = Thread(
        target=Agent(name, TOPICS, bus, state, SeededTrainer(name), time.monotonic).run, args=(over.is_set,)
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


def weights(state: Path) -> list[str]:
    return [version.weights for version in versions(state)]


def in_one_process(folder: Path, broker: Broker, path: Path) -> list[str]:
    """What the same devices come to without replicas, on a state of its own."""
    path.write_text(path.read_text().replace("replicas = 2", "replicas = 0").replace('"state"', '"plain"'))
    with aggregating(path) as process, device("a", folder / "plain-a", broker), device("b", folder / "plain-b", broker):
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return weights(folder / "plain")


def test_an_aggregator_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path, broker: Broker) -> None:
    path = settings(tmp_path, broker.port, broker.mqtt, 'state = "state"')
    with device("a", tmp_path, broker):
        with aggregating(path) as process, device("b", tmp_path, broker):
            assert process.stdout is not None
            assert any(line.startswith("round 1 closed") for line in process.stdout)
            process.send_signal(signal.SIGKILL)
        with aggregating(path) as process, device("b", tmp_path, broker):
            out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), out
    assert out.splitlines()[-1].startswith("done: the trained model is in ")
    assert len(weights(tmp_path / "state")) == 3
    assert in_one_process(tmp_path, broker, path) == weights(tmp_path / "state")


def test_a_simulation_on_replicas_has_the_weights_of_one_without(tmp_path: Path) -> None:
    found = {}
    for replicas in ("0", "2"):
        asked = (
            "--devices",
            "5",
            "--rounds",
            "2",
            "--engine",
            "loopback",
            "--strategy",
            "multikrum:1,2",
            "--epochs",
            "1",
        )
        done = fedfleet("simulate", *asked, "--replicas", replicas, "--json", f"{replicas}.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[replicas] = json.loads((tmp_path / f"{replicas}.json").read_text())["outcome"]["weights"]
    assert found["2"] == found["0"]


@pytest.mark.parametrize("verb", ["aggregate", "simulate"])
@pytest.mark.parametrize(
    ("replicas", "reason"),
    [
        ("-2", "replicas must be a number of devices, -1 for all GPUs, or 0 for none"),
        ("65", "65 replicas on a CPU are too many; ask for 64 or fewer"),
    ],
)
def test_mistakes_take_one_line(tmp_path: Path, verb: str, replicas: str, reason: str) -> None:
    path = settings(tmp_path)
    path.write_text(path.read_text().replace("replicas = 2", f"replicas = {replicas}"))
    asked = [str(path)] if verb == "aggregate" else ["--engine", "loopback", "--replicas", replicas]
    done = fedfleet(verb, *asked, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert reason in done.stderr
