from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models import audit, compiler, profile
from fedfleet.models.compiled import Compiled
from fedfleet.models.program import convert

layers = tf.keras.layers


@pytest.fixture(scope="module")
def wide() -> Compiled:
    """A model whose middle layer is nearly all of its work."""
    stack = [layers.Dense(256, activation="relu"), layers.Dense(512, activation="relu"), layers.Dense(2)]
    model = tf.keras.Sequential([tf.keras.Input((8,)), *stack])
    return compiler.compile(model, "mean_squared_error", batch=32)


@pytest.fixture(scope="module")
def costs(wide: Compiled) -> tuple[profile.Cost, ...]:
    return profile.profile(wide.program)


def trained(program: bytes) -> int:
    """How many operators `train` has."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    (index,) = (each.subgraphIndex for each in model.signatureDefs if each.signatureKey == b"train")
    return len(model.subgraphs[index].operators)


def as_train(function: Any, *specs: Any) -> bytes:
    """A program whose `train` is this function."""
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    module = tf.Module()
    module.run = concrete
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(convert(converter), 0))
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex, signature.inputs, signature.outputs = b"train", 0, [], []
    model.signatureDefs = [signature]
    return profile.pack(model)


def test_every_operator_of_a_training_step_is_counted_once(wide: Compiled, costs: tuple[profile.Cost, ...]) -> None:
    everything = audit.histogram(wide.program)
    assert sum(cost.count for cost in costs) == trained(wide.program)
    assert len({cost.op for cost in costs}) == len(costs)
    assert all(cost.count <= everything[cost.op] for cost in costs)
    # a step assigns six weights and six momenta; `set` and `adapt` assign more
    assert {cost.op: cost.count for cost in costs}["ASSIGN_VARIABLE"] == 12 < everything["ASSIGN_VARIABLE"]


def test_the_costliest_come_first_and_say_where(costs: tuple[profile.Cost, ...]) -> None:
    assert [cost.ms for cost in costs] == sorted((cost.ms for cost in costs), reverse=True)
    product = {cost.op: cost for cost in costs}["BATCH_MATMUL"]
    assert product in costs[:4]
    assert "256x512" in product.costliest[0].shapes
    assert product.costliest[0].ms <= product.ms
    assert 1 <= len(product.costliest) <= 3


def test_the_parts_add_up_to_about_a_step(wide: Compiled, costs: tuple[profile.Cost, ...]) -> None:
    step = audit.step_ms(wide)
    assert 0.2 < sum(cost.ms for cost in costs) / step < 3


def test_operators_that_are_alike_are_timed_together() -> None:
    program = as_train(lambda x, y: (x + y) * (x + 2 * y) - (y + x[:2]), tf.TensorSpec([2, 3]), tf.TensorSpec([2, 3]))
    (added,) = (cost for cost in profile.profile(program) if cost.op == "ADD")
    assert [(each.shapes, each.count) for each in added.costliest] == [("2x3, 2x3 -> 2x3", added.count)]


def test_shapes_leave_out_what_only_says_how() -> None:
    program = as_train(lambda x: tf.transpose(x, [1, 0]), tf.TensorSpec([400, 300]))
    assert [cost.costliest[0].shapes for cost in profile.profile(program)] == ["400x300 -> 300x400"]


def test_a_constant_shape_stays_one() -> None:
    (found,) = profile.profile(as_train(lambda x: tf.reshape(x, [300, 400]), tf.TensorSpec([400, 300])))
    assert (found.op, found.ms > 0) == ("RESHAPE", True)  # made up, it would be refused and cost nothing


def test_operators_that_do_different_things_to_the_same_shapes_are_timed_apart() -> None:
    program = as_train(lambda x: tf.transpose(x, [0, 2, 1]) + tf.transpose(x, [2, 1, 0]), tf.TensorSpec([20, 20, 20]))
    found = {cost.op: cost for cost in profile.profile(program)}
    assert [single.count for single in found["TRANSPOSE"].costliest] == [1, 1]


def test_constants_that_are_worked_on_stay_constants() -> None:
    weights = tf.constant([[float(i * j % 7) for i in range(64)] for j in range(32)])
    program = as_train(lambda x: tf.linalg.matmul(x, weights), tf.TensorSpec([4, 32]))
    (product,) = (cost for cost in profile.profile(program) if cost.op == "FULLY_CONNECTED")
    assert product.costliest[0].shapes == "4x32, 64x32 -> 4x64"


def test_an_operator_that_refuses_made_up_inputs_costs_nothing() -> None:
    # the shape is computed, and a shape of zeros holds none of the six numbers
    program = as_train(lambda x, s: tf.reshape(x, s + 1), tf.TensorSpec([6]), tf.TensorSpec([2], tf.int32))
    found = {cost.op: cost.ms for cost in profile.profile(program)}
    assert found["RESHAPE"] == 0
    assert found["ADD"] >= 0
