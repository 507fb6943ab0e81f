"""Ours equals TensorFlow Federated's over ten rounds on the same clients: real device programs against a TFF process.

The models are smooth: where two numbers that differ in the last bit fall out differently, steps drift apart.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.tff.child import Child
from fedfleet.cloud.tff.installed import PACKAGE
from fedfleet.models.compiled import Compiled, Weights, load
from fedfleet.sim.datasets import load as load_data
from fedfleet.sim.fleet import device_id
from fedfleet.sim.record import read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.sim.tff.engine import MODULE, begun
from fedfleet.wire.messages import Plan

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGE) is None, reason="TensorFlow Federated is in .venv-tff alone: make test-tff"
)
ROUNDS, NEAR, PATIENCE = 10, 1e-5, 300.0
MODELS = """
import tensorflow as tf

layers = tf.keras.layers
glorot = tf.keras.initializers.GlorotUniform

def dense():
    return tf.keras.Sequential([
        tf.keras.Input((8, 8, 1)), layers.Flatten(),
        layers.Dense(20, activation="tanh", kernel_initializer=glorot(1)),
        layers.Dense(10, kernel_initializer=glorot(2)),
    ])

def dropping():
    return tf.keras.Sequential([
        tf.keras.Input((8, 8, 1)), layers.Flatten(), layers.Dropout(0.3),
        layers.Dense(20, activation="tanh", kernel_initializer=glorot(1)), layers.Dropout(0.5),
        layers.Dense(10, activation="softmax", kernel_initializer=glorot(2)),
    ])

def convolving():
    return tf.keras.Sequential([
        tf.keras.Input((8, 8, 1)),
        layers.Conv2D(6, 3, padding="same", activation="tanh", kernel_initializer=glorot(1)),
        layers.AveragePooling2D(),
        layers.Conv2D(8, 3, strides=2, activation="tanh", kernel_initializer=glorot(2)),
        layers.Flatten(), layers.Dense(10, activation="softmax", kernel_initializer=glorot(3)),
    ])

def partly():
    frozen = layers.Dense(20, activation="tanh", kernel_initializer=glorot(1))
    frozen.trainable = False
    return tf.keras.Sequential([
        tf.keras.Input((8, 8, 1)), layers.Flatten(), frozen, layers.Dense(10, kernel_initializer=glorot(2)),
    ])

def regressing():
    return tf.keras.Sequential([
        tf.keras.Input((6,)), layers.Dense(12, activation="tanh", kernel_initializer=glorot(1)),
        layers.Dense(2, kernel_initializer=glorot(2)),
    ])
"""
BASE = Simulation(
    devices=4,
    engine="loopback",
    rounds=Rounds(total=ROUNDS, deadline=60.0),
    plan=Plan(epochs=2, learning_rate=0.05, momentum=0.9),
    baselines=False,
)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """One process for all runs: to load TFF takes seconds."""
    found = Child(MODULE)
    yield found
    found.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS)
    return path


def started(wanted: Simulation, folder: Path) -> Compiled:
    """The program that a run of `wanted` begins with, in `folder`."""
    from fedfleet.sim import program as programs

    dataset = load_data(wanted.data, wanted.seed)
    compiled = programs.compiled(programs.build(dataset, wanted.kind, wanted.model, wanted.seed), dataset, wanted.batch)
    compiled.save(folder)
    return compiled


def both(wanted: Simulation, child: Child, out: Path) -> tuple[Weights, Weights, Weights]:
    """The weights at first, after all rounds of real devices, and after those of TFF on what these devices hold."""
    run = simulate(wanted, out / "runs", Console(file=io.StringIO()))
    compiled = started(wanted, out / "started")
    child.ask("parity", PATIENCE, begun(wanted, run, out / "started"))
    called, losses = [device_id(index) for index in range(wanted.devices)], []
    for number in range(1, wanted.rounds.total + 1):
        answer, (weights,) = child.ask("parity", PATIENCE, {"kind": "round", "round": number, "called": called})
        losses.append(answer["loss"])
        assert answer["examples"] == read(run).rounds[number - 1].examples
    np.testing.assert_allclose(losses, [record.train_loss for record in read(run).rounds], rtol=1e-4)
    return compiled.weights, load(run / "model").weights, weights


def apart(first: Weights, ours: Weights, theirs: Weights) -> float:
    """How far two models are from each other, relative to how far they have gone."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours - first))


@pytest.mark.parametrize(
    "strategy",
    ["fedavg", "fedavgm:0.5", "fedprox", "fedadam", "fedyogi:0.01", "fedadagrad", "tff.adam:0.01",
     "tff:UnweightedMeanFactory+fedadam", "tff:robust_aggregator+tff.yogi"],
)  # fmt: skip
def test_ten_rounds_come_to_the_same_weights(strategy: str, child: Child, models: Path, tmp_path: Path) -> None:
    wanted = replace(BASE, strategy=strategy, model=f"{models}:dense")
    first, ours, theirs = both(wanted, child, tmp_path)
    assert np.abs(ours - first).max() > 0.05
    assert apart(first, ours, theirs) < NEAR


@pytest.mark.parametrize("model", ["dropping", "convolving", "partly"])
def test_masks_convolutions_and_frozen_layers_come_to_the_same(
    model: str, child: Child, models: Path, tmp_path: Path
) -> None:
    wanted = replace(BASE, model=f"{models}:{model}")
    assert apart(*both(wanted, child, tmp_path)) < NEAR


@pytest.mark.parametrize(
    "change",
    [
        {"plan": Plan(epochs=1, learning_rate=0.05, proximal=0.5)},
        {"plan": Plan(steps=10, learning_rate=0.02), "model": "", "rounds": Rounds(total=1, deadline=60.0)},
        {"plan": Plan(steps=7, learning_rate=0.1, momentum=0.5)},  # counts examples held, not those that were seen
        {"seed": 5, "batch": 64, "devices": 7},  # most devices have one batch, and that is padded
    ],
    ids=["proximal", "ten steps of the zoo's network", "steps", "large batches"],
)
def test_plans_come_to_the_same(change: dict[str, object], child: Child, models: Path, tmp_path: Path) -> None:
    wanted = replace(BASE, **{"model": f"{models}:dense", **change})  # type: ignore[arg-type]
    assert apart(*both(wanted, child, tmp_path)) < NEAR


def test_a_regression_comes_to_the_same(child: Child, models: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=(x[:, :2] ** 2).astype(np.float32))
    plan = Plan(epochs=1, learning_rate=0.02, momentum=0.9)
    data, model = f"npz:{tmp_path / 'data.npz'}", f"{models}:regressing"
    wanted = replace(BASE, data=data, model=model, split="iid", plan=plan)
    assert apart(*both(wanted, child, tmp_path)) < NEAR


def test_tffs_own_fedprox_is_ours_with_the_pull_turned_round(
    models: Path, tmp_path: Path, rooms: Callable[..., None]
) -> None:
    """Li et al. 2020, eq. 2: the term holds clients near the model. TFF 0.87 has its sign wrong, and drives them away."""
    rooms(Path(__file__).parents[1])
    wanted = replace(BASE, model=f"{models}:dense", rounds=Rounds(total=1, deadline=60.0))
    run = simulate(wanted, tmp_path / "runs", Console(file=io.StringIO()))
    first = started(wanted, tmp_path / "started").weights
    request = begun(wanted, run, tmp_path / "started") | {"kind": "compare", "mu": 1.0, "called": ["d0", "d1", "d2"]}
    other = Child("tff_own")
    try:
        _, (own, turned, ours) = other.ask("FedProx", PATIENCE, request)
    finally:
        other.close()
    assert apart(first, own, turned) < NEAR
    assert np.linalg.norm(own - first) > 2 * np.linalg.norm(ours - first)
