"""Whole federations with a local head: what is shared is averaged, what is local is each device's own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.models.compiled import load
from fedfleet.sim import program as programs
from fedfleet.sim.fleet import LoopbackFleet, fill
from fedfleet.sim.record import read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.wire.chunks import open_offer
from fedfleet.wire.errors import ModelError
from fedfleet.wire.examples import Examples
from fedfleet.wire.frames import unpack
from fedfleet.wire.loopback import Hub
from fedfleet.wire.messages import Blob, Plan
from fedfleet.wire.topics import Topics

MODEL = """
import tensorflow as tf

def build():
    start = tf.keras.initializers.GlorotUniform
    layers = [
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(6, activation="tanh", kernel_initializer=start(1), name="body"),
        tf.keras.layers.Dense(10, activation="softmax", kernel_initializer=start(2), name="head"),
    ]
    return tf.keras.Sequential([tf.keras.Input(SHAPE), *layers])
"""
TOPICS = Topics("opposites")


def source(folder: Path, shape: str) -> str:
    (folder / "model.py").write_text(MODEL.replace("SHAPE", shape))
    return f"{folder / 'model.py'}:build"


def opposites() -> list[Examples]:
    """The same rows on two devices, which call them by opposite names."""
    x = np.random.default_rng(3).normal(size=(64, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    return [Examples(x, y), Examples(x, 1 - y)]


@pytest.mark.filterwarnings("ignore")
def test_each_device_learns_its_own_head_on_a_common_body(tmp_path: Path) -> None:
    from fedfleet.models import compiler
    from fedfleet.models import source as sources

    compiled = compiler.compile(
        sources.build(source(tmp_path, "(2,)")), "sparse_categorical_crossentropy", batch=16, local=["head"]
    )
    parts = opposites()
    fill(tmp_path / "devices", parts)
    hub, journal = Hub(), Journal(tmp_path / "cloud")
    ears = hub.connect()
    ears.subscribe(TOPICS.update())
    fleet = LoopbackFleet(tmp_path / "devices", 2, "opposites", hub, lambda: 0.0)
    plan = Plan(epochs=4, learning_rate=0.3)
    federation = Federation(compiled.program, compiled.shared, strategy("fedavg"), plan, Rounds(total=6, devices=2))
    aggregator = Aggregator(federation, TOPICS, hub.connect(), journal, lambda: 0.0)
    while not aggregator.done:
        aggregator.step(0)
        fleet.step()
    journal.close()
    fleet.close()
    body = aggregator.weights
    assert body.size == compiled.shared.size == 18
    assert not np.array_equal(body, compiled.shared)
    sent = [delivery.payload for delivery in ears.deliveries(0)]
    offers = [payload for payload in sent if unpack(payload)[0]["kind"] == "offer"]
    assert (len(offers), len(sent)) == (12, 24)
    assert {open_offer(payload).blob.size for payload in offers} == {4 * 18}
    heads = []
    for device, part in zip(("d0", "d1"), parts):
        (path,) = (tmp_path / "devices" / device / "state" / "local" / compiled.digest).glob("6.weights")
        heads.append(np.frombuffer(path.read_bytes()[:-32], "<f4"))
        score = evaluator(compiled, part)
        assert score(np.concatenate([body, heads[-1]]))["accuracy"] > 0.95
        assert heads[-1].size == compiled.weights.size - 18
        assert not any(heads[-1][i : i + 2].tobytes() in payload for payload in sent for i in range(69))
    assert evaluator(compiled, parts[0])(np.concatenate([body, heads[1]]))["accuracy"] < 0.05
    # central evaluation takes the head that the program brings, whatever was scored before
    score = evaluator(compiled, parts[0])
    expected = score(np.concatenate([body, compiled.weights[18:]]))
    score(np.concatenate([body, heads[0]]))
    assert score(body) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_simulation_with_a_local_head(tmp_path: Path) -> None:
    wanted = Simulation(
        devices=2,
        rounds=Rounds(total=2, deadline=60.0),
        plan=Plan(learning_rate=0.05),
        engine="loopback",
        baselines=False,
        model=source(tmp_path, "(8, 8, 1)"),
        local=("head",),
    )
    found = read(simulate(wanted, tmp_path / "runs", Console(file=io.StringIO())))
    trained = load(tmp_path / "runs" / found.facts.id / "model")
    assert found.outcome is not None
    assert Blob.of(trained.shared.astype("<f4").tobytes()).digest == found.outcome.weights
    assert trained.weights.size == trained.shared.size + 70 == found.facts.parameters
    assert found.rounds[0].bytes_up < 2 * (4 * trained.shared.size + 600) < 2 * 4 * trained.weights.size + 800


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    from fedfleet.sim.datasets import load as load_data

    dataset = load_data("digits", 0)
    model = programs.build(dataset, "digits", source(tmp_path, "(8, 8, 1)"), 0)
    with pytest.raises(ModelError, match="no layer 'tail' that trains; the layers that train are: body, head"):
        programs.compiled(model, dataset, 16, ("tail",))
