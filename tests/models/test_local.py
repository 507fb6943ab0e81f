"""Layers that stay on the device: where their weights lie, what the program brings, and how they come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import distance

from fedfleet.models import audit, compiler
from fedfleet.models.compiled import arranged, load
from fedfleet.wire.errors import ModelError, StoreError

layers = tf.keras.layers
CROSS = "sparse_categorical_crossentropy"


@pytest.fixture
def net(stack: Any) -> Any:
    """Local weights first, in the middle and last, so that no order is right by chance."""
    inside = stack((5,), layers.Dense(5, activation="tanh", name="deep"), layers.Dense(4, name="deeper"))
    return stack((4,), layers.Dense(5, name="first"), inside, layers.Dense(3, name="head"))


def names(compiled: Any) -> list[tuple[str, bool]]:
    return [(entry.name.split("/")[-2], entry.shared) for entry in compiled.layout if entry.name.endswith("kernel")]


def test_the_shared_weights_come_first(net: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=3, local=["head", "first"])
    assert names(compiled) == [("deep", True), ("deeper", True), ("first", False), ("head", False)]
    assert compiled.shared.size == 54
    assert [entry.offset for entry in compiled.layout] == [0, 25, 30, 50, 54, 74, 79, 91]
    assert sorted(entry.place for entry in compiled.layout) == list(range(8))
    for entry in compiled.layout:
        mine = compiled.weights[entry.offset : entry.offset + entry.size]
        np.testing.assert_array_equal(mine, net.trainable_weights[entry.place].numpy().reshape(-1))


def test_a_layer_of_a_nested_model_can_stay(net: Any) -> None:
    assert names(compiler.compile(net, CROSS, batch=3, local=["deeper"]))[-1] == ("deeper", False)
    nested = net.layers[1].name
    whole = compiler.compile(net, CROSS, batch=3, local=[nested])
    assert names(whole) == [("first", True), ("head", True), ("deep", False), ("deeper", False)]


def test_it_trains_as_tensorflow_does(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=3, local=["first", "deeper"])
    assert audit.audit(net, compiled).difference < 1e-4
    functions, batch, weights = run(compiled), audit.examples(compiled), compiled.weights
    for _ in range(20):
        weights = weights - np.float32(0.1) * arranged(audit.gradient(net, CROSS, batch), compiled.layout)
        compiler.assign(net, compiled.layout, weights)
        audit.step(functions, batch, learning_rate=0.1)
    got = functions["get"]()["weights"]
    assert distance(got - compiled.weights, weights - compiled.weights) < 1e-4
    x = batch["x"][:1]
    np.testing.assert_allclose(functions["infer"](x=x)["output"], net(x).numpy(), atol=1e-5)


def test_the_program_brings_what_local_layers_start_from(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=3, local=["head"])
    functions = run(compiled)
    assert functions["local"]()["weights"].tobytes() == compiled.weights[compiled.shared.size :].tobytes()
    functions["set"](weights=compiled.weights * 0)
    audit.step(functions, audit.examples(compiled), learning_rate=0.1)
    assert functions["local"]()["weights"].tobytes() == compiled.weights[compiled.shared.size :].tobytes()
    assert "local" not in run(compiler.compile(net, CROSS, batch=3))


def test_without_local_layers_the_program_is_what_it_was(net: Any) -> None:
    assert compiler.compile(net, CROSS, batch=3).digest == compiler.compile(net, CROSS, batch=3, local=()).digest


@pytest.mark.parametrize(
    ("local", "says"),
    [
        (["haed"], "no layer 'haed' that trains; the layers that train are: .*first, .*deep, deeper, head"),
        (["head", "frozen"], "no layer 'frozen' that trains"),
        (["first", "deep", "deeper", "head"], "all weights of model .* would stay local; leave a layer to share"),
    ],
)
def test_names_that_cannot_be_local_are_refused(net: Any, stack: Any, local: list[str], says: str) -> None:
    model = stack((4,), layers.Dense(4, trainable=False, name="frozen"), net)
    with pytest.raises(ModelError, match=says):
        compiler.compile(model, CROSS, local=local)


def test_weights_come_back_into_a_model_of_other_names(net: Any, stack: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=3, local=["deep"])
    twin = stack((4,), layers.Dense(5), layers.Dense(5, activation="tanh"), layers.Dense(4), layers.Dense(3), seed=9)
    compiler.assign(twin, compiled.layout, compiled.weights)
    np.testing.assert_array_equal(compiler.flatten(twin), compiler.flatten(net))
    moved = (replace(compiled.layout[0], place=1), *compiled.layout[1:])
    with pytest.raises(ModelError, match="the layout is not the model's"):
        compiler.assign(twin, moved, compiled.weights)


def test_shared_weights_alone_replace_the_shared_part(net: Any, tmp_path: Path) -> None:
    compiled = compiler.compile(net, CROSS, batch=3, local=["head"])
    shared = compiled.shared + 1
    found = compiled.with_weights(shared)
    np.testing.assert_array_equal(found.weights, np.concatenate([shared, compiled.weights[shared.size :]]))
    np.testing.assert_array_equal(compiled.with_weights(compiled.weights * 2).weights, compiled.weights * 2)
    for size in (0, shared.size + 1, compiled.weights.size - 1, compiled.weights.size + 1):
        with pytest.raises(StoreError, match=f"are not the {shared.size} or {compiled.weights.size} of the program"):
            compiled.with_weights(np.zeros(size, np.float32))
    found.save(tmp_path)
    again = load(tmp_path)
    assert (again.layout, again.shared.tobytes()) == (compiled.layout, shared.tobytes())


def test_a_layout_with_a_local_weight_in_front_is_damaged(net: Any, tmp_path: Path) -> None:
    compiled = compiler.compile(net, CROSS, batch=3)
    replace(compiled, layout=(replace(compiled.layout[0], shared=False), *compiled.layout[1:])).save(tmp_path)
    with pytest.raises(StoreError, match="the layout does not cover the weights"):
        load(tmp_path)
