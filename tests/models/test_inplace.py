"""No runtime may write over what is still to be read, with XNNPACK or without."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import train
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models import compiler
from fedfleet.models.inplace import overwriting, safe
from fedfleet.models.program import convert
from fedfleet.models.runtime import runtime

K = tf.keras
layers = K.layers
Interpreter = runtime()
RUNTIME = importlib.import_module(Interpreter.__module__)
X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def converted(function: Any) -> bytes:
    spec = tf.TensorSpec([3, 4], tf.float32, "x")
    concrete = tf.function(function).get_concrete_function(spec)
    return convert(tf.lite.TFLiteConverter.from_concrete_functions([concrete]))


def parts(program: bytes) -> tuple[Any, list[int]]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    return model.subgraphs[0], [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]


def alone(program: bytes) -> list[Any]:
    """The first outputs, by the runtime's own kernels."""
    loaded = Interpreter(
        model_content=program, experimental_op_resolver_type=RUNTIME.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    loaded.allocate_tensors()
    loaded.set_tensor(loaded.get_input_details()[0]["index"], X)
    loaded.invoke()
    return [loaded.get_tensor(detail["index"]) for detail in loaded.get_output_details()]


def hazard(x: Any) -> Any:
    """z lies where an earlier tensor did, and is read after a view of it has been changed."""
    z = tf.exp(x * 0.1) * tf.reduce_sum(x, 1, keepdims=True)
    changed = tf.reshape(z, [2, 6]) * tf.constant([[2.0], [3.0]])
    later = tf.reduce_sum(changed) * tf.ones([1, 1])
    return tf.concat([z * later, later * tf.ones([1, 4])], 0)


def test_what_is_read_later_is_not_written_over() -> None:
    program = converted(hazard)
    assert overwriting(*parts(program)) != []
    wanted = hazard(tf.constant(X)).numpy()
    np.testing.assert_allclose(alone(safe(program))[0], wanted, rtol=1e-5)


def test_nothing_is_left_to_be_found_and_the_rest_is_as_it_was() -> None:
    program = safe(converted(hazard))
    assert overwriting(*parts(program)) == []
    assert safe(program) is program
    assert len(parts(program)[0].outputs) == len(parts(converted(hazard))[0].outputs) + 1


@pytest.mark.parametrize(
    "harmless",
    [
        lambda x: tf.reshape(tf.exp(x * 0.1), [2, 6]) * 2.0,  # nobody else reads it
        lambda x: tf.reshape(x, [2, 6]) * 2.0 + tf.reshape(tf.exp(x), [2, 6]),  # an input is never written over
        lambda x: tf.tanh(tf.exp(x * 0.1) * 2.0),
    ],
)
def test_what_does_no_harm_stays(harmless: Any) -> None:
    program = converted(harmless)
    assert safe(program) is program


def test_two_normalisations_one_after_the_other(stack: Any, run: Any) -> None:
    model = stack(
        (9, 2),
        layers.Dense(4, use_bias=False),
        layers.LayerNormalization(center=False),
        layers.LayerNormalization(),
        layers.Flatten(),
        layers.Dense(3),
    )
    compiled = compiler.compile(model, "mean_squared_error", batch=2)
    assert train(model, compiled, run(compiled), 3) < 1e-4
