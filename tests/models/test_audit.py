from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled
from fedfleet.models.program import convert
from fedfleet.models.runtime import interpreter
from fedfleet.wire.errors import ModelError, ProgramError

layers = tf.keras.layers
CROSS = "sparse_categorical_crossentropy"


@pytest.fixture
def pair(stack: Any) -> tuple[Any, Compiled]:
    model = stack((4,), layers.Dense(5, activation="relu"), layers.Dense(3, activation="softmax"))
    return model, compiler.compile(model, CROSS, batch=6)


def test_the_report_says_what_was_found(pair: tuple[Any, Compiled]) -> None:
    report = audit.audit(*pair)
    assert (report.shared, report.local, report.frozen) == (43, 0, 0)
    assert report.program_bytes == len(pair[1].program)
    assert 0 <= report.difference < 1e-4
    assert 0 < report.step_ms < 1000
    assert report.ops["BATCH_MATMUL"] >= 5
    assert not {name for name in report.ops if "FLEX" in name.upper() or name == "CUSTOM"}


def test_a_program_of_another_model_is_caught(pair: tuple[Any, Compiled], stack: Any) -> None:
    other = stack((4,), layers.Dense(5, activation="tanh"), layers.Dense(3, activation="softmax"))
    with pytest.raises(ModelError, match="differs from Keras"):
        audit.audit(other, pair[1])


def test_a_program_for_other_weights_is_caught(pair: tuple[Any, Compiled]) -> None:
    model, compiled = pair
    with pytest.raises(ModelError, match="differs from Keras"):
        audit.audit(model, replace(compiled, weights=compiled.weights * np.float32(1.5)))


def test_flex_ops_are_caught() -> None:
    function = tf.function(lambda x: {"y": tf.raw_ops.ReluGrad(gradients=x, features=x)}, autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec([2]))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], function)
    with pytest.raises(ModelError, match="the LiteRT converter refuses the model") as caught:
        convert(converter)
    assert "\n" not in str(caught.value)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], function)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with pytest.raises(ModelError, match="op FlexReluGrad is no LiteRT builtin"):
        audit.histogram(convert(converter))


def test_a_program_without_the_signatures_is_caught(pair: tuple[Any, Compiled]) -> None:
    model, compiled = pair
    with pytest.raises(ModelError, match=r"has the signatures \['infer'\]"):
        audit.audit(model, replace(compiled, program=compiler.export_infer(model)))


def test_bytes_that_are_no_program() -> None:
    with pytest.raises(ProgramError, match="cannot load the program"):
        interpreter(b"not a flatbuffer at all")


def test_the_inference_export_is_the_model(pair: tuple[Any, Compiled]) -> None:
    model, _ = pair
    program = compiler.export_infer(model)
    x = np.random.default_rng(2).standard_normal((1, 4)).astype(np.float32)
    output = interpreter(program).get_signature_runner("infer")(x=x)["output"]
    np.testing.assert_allclose(output, model(x).numpy(), rtol=1e-5, atol=1e-6)
    assert "ASSIGN_VARIABLE" not in audit.histogram(program)


def test_examples_are_the_same_every_time_and_mask_a_row(pair: tuple[Any, Compiled]) -> None:
    one, two = audit.examples(pair[1]), audit.examples(pair[1])
    assert all((one[name] == two[name]).all() for name in one)
    assert one["weight"].tolist() == [1, 1, 1, 1, 1, 0]
