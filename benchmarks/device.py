"""The device's own processes, measured: the training child on a real task, the agent that waits, the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import watch
from tensorflow_client import cnn

from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.data import Store
from fedfleet.models import compiler, zoo
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Plan, Task

ROOT = Path(__file__).parents[1]
EXAMPLES, ROUNDS, SETTLE = 200, 3, 3.0


def program(name: str) -> Compiled:
    """The program of a model whose training is measured."""
    models: Mapping[str, Callable[[], Any]] = {"cnn": cnn, "digits": zoo.digits, "mlp": lambda: zoo.tabular(16, 4)}
    return compiler.compile(models[name](), "sparse_categorical_crossentropy")


def training_mib(compiled: Compiled) -> float:
    """The peak of the process that trains: the real one, for a few rounds on a store of examples."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = random.random((EXAMPLES, *compiled.input_shape), np.float32)
        y = random.integers(0, compiled.output_shape[-1], EXAMPLES).astype(np.int32)
        Store.open(folder / "examples").append(Examples(x, y))
        program, weights = folder / "program", folder / "weights"
        program.write_bytes(compiled.program)
        weights.write_bytes(compiled.weights.astype("<f4").tobytes())
        names = Blob.of(compiled.program), Blob.of(weights.read_bytes())
        trainer = ChildTrainer("d1", folder / "examples", folder / "trainer.log")
        try:
            for number in range(1, ROUNDS + 1):
                task = Task(number, *names, Plan(epochs=2, learning_rate=0.01, momentum=0.9), seed=1)
                trainer.train(task, program, weights, lambda: False)
            return max(watch.peak_mib(pid) for pid in _workers())
        finally:
            trainer.close()


def _workers() -> list[int]:
    return [pid for pid in watch.descendants(os.getpid()) if "fedfleet.edge.worker" in watch.command(pid)]


def idle_mib() -> float:
    """The peak of an agent that is connected to a broker and waits for a task."""
    with tempfile.TemporaryDirectory() as name, running("auto", Path(name)) as up:
        folder, log = Path(name), Path(name) / "agent.log"
        broker = f'[broker]\nhost = "{up.broker.host}"\nport = {up.broker.port}\nmqtt = {up.broker.mqtt}\n'
        (folder / "agent.toml").write_text(f'device = "d1"\nfleet = "idle"\n{broker}')
        arguments = [sys.executable, "-m", "fedfleet.edge", "--settings", str(folder / "agent.toml")]
        with watch.started(arguments, log) as agent:
            watch.until(lambda: "is ready" in log.read_text(), "the agent connects")
            time.sleep(SETTLE)
            return watch.peak_mib(agent.pid)


def disk_mib() -> float:
    """What a board's environment takes: a fresh venv with all that the lock names, as pip leaves it."""
    with tempfile.TemporaryDirectory() as name:
        install(Path(name), "--require-hashes", "-r", str(ROOT / "edge" / "lock.txt"))
        return size_mib(Path(name))


def install(venv: Path, *wanted: str) -> None:
    """Make a venv and install into it."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    quiet = ("-qq", "--disable-pip-version-check")
    subprocess.run([str(venv / "bin" / "python"), "-m", "pip", "install", *quiet, *wanted], check=True)


def size_mib(folder: Path) -> float:
    """The disk that a folder occupies."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 2**20


def tensorflow_mib() -> float:
    """The peak of a fresh process that trains the CNN with TensorFlow."""
    script: list[Any] = [sys.executable, str(ROOT / "benchmarks" / "tensorflow_client.py")]
    ended = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return float(ended.stdout)
