"""Frozen kernels as int8: a quarter of the bytes, the same program otherwise, and Keras's own weights untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import train
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models import audit, compiler, runtime, zoo
from fedfleet.models.compiled import Compiled, load
from fedfleet.models.int8 import LEAST, packed, rounded
from fedfleet.wire.errors import ModelError

layers = tf.keras.layers
CROSS = "sparse_categorical_crossentropy"


def body() -> list[Any]:
    """Every kind of frozen kernel, and one that is too small to be worth it."""
    return [
        layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", trainable=False),
        layers.Conv2D(128, 3, padding="same", activation="relu", trainable=False),
        layers.DepthwiseConv2D(3, padding="same", activation="relu", trainable=False),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(64, activation="tanh", trainable=False),
    ]


@pytest.fixture(scope="module")
def net() -> Any:
    model = tf.keras.Sequential([tf.keras.Input((12, 12, 3)), *body(), layers.Dense(5)])
    random = np.random.default_rng(0)
    for weight in model.weights:
        scale = np.exp(random.normal(size=weight.shape[-1])) / np.sqrt(np.prod(weight.shape[:-1]) + 1)
        weight.assign((random.normal(size=tuple(weight.shape)) * scale).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def both(net: Any) -> tuple[Compiled, Compiled]:
    return tuple(compiler.compile(net, CROSS, batch=4, frozen=form) for form in ("float32", "int8"))  # type: ignore[return-value]


def tensors(program: bytes, kind: int) -> list[Any]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    found = [(model, tensor) for graph in model.subgraphs for tensor in graph.tensors if tensor.type == kind]
    return [(tensor, model.buffers[tensor.buffer].data) for model, tensor in found]


def test_it_has_a_quarter_of_the_bytes(both: tuple[Compiled, Compiled]) -> None:
    large, small = (len(compiled.program) for compiled in both)
    kernels = 4 * (3 * 3 * 8 * 128 + 3 * 3 * 128 + 9 * 128 * 64)
    assert large > kernels
    assert 0.70 * kernels < large - small < 0.75 * kernels
    assert small < 0.35 * large


def test_levels_and_scales_lie_once_in_the_file(both: tuple[Compiled, Compiled], net: Any) -> None:
    found = tensors(both[1].program, schema.TensorType.INT8)
    assert len(found) == 9  # three kernels in train, evaluate and infer
    assert len({tensor.buffer for tensor, _ in found}) == 3
    assert audit.histogram(both[1].program)["DEQUANTIZE"] == 9
    frozen = {int(np.prod(w.shape)): np.asarray(w) for w in net.non_trainable_weights}
    for tensor, data in found:
        own, axis = frozen[len(data)], tensor.quantization.quantizedDimension
        levels = np.frombuffer(bytes(data), np.int8).reshape(tensor.shape)
        others = tuple(i for i in range(levels.ndim) if i != axis)
        assert (np.abs(levels.astype(int)).max(others) == 127).all()
        assert (np.asarray(tensor.quantization.zeroPoint) == 0).all()
        largest = np.abs(own).max((0, 1, 3) if own.shape[-1] == 1 else tuple(range(own.ndim - 1)))
        np.testing.assert_allclose(tensor.quantization.scale, largest / 127, rtol=1e-5)
    codes = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(both[1].program, 0)).operatorCodes
    unpack = [code for code in codes if code.builtinCode == schema.BuiltinOperator.DEQUANTIZE]
    assert [code.version for code in unpack] == [5]  # scales by channel: an older runtime must refuse, not misread
    # what is left as float32 in the file is small
    rest = [len(data) for _, data in tensors(both[1].program, schema.TensorType.FLOAT32) if data is not None]
    assert max(rest) < 4 * LEAST


def test_the_program_is_held_against_the_rounded_model(both: tuple[Compiled, Compiled], net: Any, run: Any) -> None:
    small = both[1]
    before = [np.asarray(w) for w in net.weights]
    assert audit.audit(net, small).difference < 1e-4
    assert audit.audit(net, both[0]).difference < 1e-4
    with pytest.raises(ModelError, match="differs from Keras"):
        audit.audit(net, replace(small, frozen="float32"))
    with rounded(net, "int8"):
        assert train(net, small, run(small), 20) < 1e-4
        compiler.assign(net, small.layout, small.weights)
    for weight, values in zip(net.weights, before):
        np.testing.assert_array_equal(np.asarray(weight), values)


def test_it_stays_near_the_model(both: tuple[Compiled, Compiled], run: Any) -> None:
    large, small = (run(compiled) for compiled in both)
    x = np.random.default_rng(1).random((1, 12, 12, 3)).astype(np.float32)
    one, two = large["infer"](x=x)["output"], small["infer"](x=x)["output"]
    assert 0 < np.abs(one - two).max() < 0.02 * np.abs(one).max()


def test_a_runtime_without_its_delegate_gives_the_same(both: tuple[Compiled, Compiled], run: Any) -> None:
    """Boards without XNNPACK unpack the levels with the plain kernel."""
    interpreter = runtime.runtime()
    module = __import__(interpreter.__module__, fromlist=["OpResolverType"])
    plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    slow = interpreter(model_content=both[1].program, experimental_op_resolver_type=plain)
    batch, moved = audit.examples(both[1]), []
    for functions in (run(both[1]), {name: slow.get_signature_runner(name) for name in slow.get_signature_list()}):
        functions["set"](weights=both[1].weights)
        for _ in range(3):
            audit.step(functions, batch, learning_rate=0.1)
        moved.append(functions["get"]()["weights"] - both[1].weights)
    assert np.abs(moved[0]).max() > 0
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-6)


def test_kernels_before_which_something_trains_are_packed_too(stack: Any, run: Any) -> None:
    """Gradients by their input read the same levels, flipped or turned."""
    frozen = [layers.Conv2D(32, 3, trainable=False), layers.Flatten(), layers.Dense(40, trainable=False)]
    model = stack((6, 6, 2), layers.Conv2D(32, 1), *frozen, layers.Dense(3))
    compiled = compiler.compile(model, CROSS, batch=4, frozen="int8")
    with rounded(model, "int8"):
        assert train(model, compiled, run(compiled), 10) < 1e-4
    rest = [len(data) for _, data in tensors(compiled.program, schema.TensorType.FLOAT32) if data is not None]
    assert max(rest) < 4 * LEAST


def test_nothing_frozen_nothing_changed(stack: Any) -> None:
    model = stack((40,), layers.Dense(40), layers.Dense(3))
    one, two = (compiler.compile(model, CROSS, batch=4, frozen=form) for form in ("float32", "int8"))
    assert one.program == two.program
    assert packed(one.program) == one.program


def test_an_unknown_form_is_named(net: Any) -> None:
    with pytest.raises(ModelError, match="unknown form 'int4' of frozen weights; use float32 or int8"):
        compiler.compile(net, CROSS, frozen="int4")


def test_the_models_own_weights_come_back_after_an_error(net: Any) -> None:
    before = [np.asarray(w) for w in net.weights]
    with pytest.raises(ZeroDivisionError), rounded(net, "int8"):
        assert any((np.asarray(w) != values).any() for w, values in zip(net.weights, before))
        1 / 0  # noqa: B018
    for weight, values in zip(net.weights, before):
        np.testing.assert_array_equal(np.asarray(weight), values)


def test_a_channel_of_zeros_stays_zero(stack: Any) -> None:
    model = stack((40,), layers.Dense(40, trainable=False), layers.Dense(3))
    kernel = np.asarray(model.layers[0].kernel).copy()
    kernel[:, 7] = 0
    model.layers[0].kernel.assign(kernel)
    with rounded(model, "int8"):
        found = np.asarray(model.layers[0].kernel)
    assert (found[:, 7] == 0).all()
    assert (np.abs(found - kernel).max(0) <= np.abs(kernel).max(0) / 253).all()


def test_the_inference_export_takes_the_same_kernels(both: tuple[Compiled, Compiled], net: Any, run: Any) -> None:
    exported = compiler.export_infer(net, "int8")
    assert len(exported) < len(compiler.export_infer(net)) / 3
    x = np.random.default_rng(2).random((1, 12, 12, 3)).astype(np.float32)
    output = runtime.interpreter(exported).get_signature_runner("infer")(x=x)["output"]
    np.testing.assert_allclose(output, run(both[1])["infer"](x=x)["output"], rtol=1e-4, atol=1e-5)


def test_the_form_is_saved(both: tuple[Compiled, Compiled], tmp_path: Path) -> None:
    for compiled in both:
        compiled.save(tmp_path)
        assert load(tmp_path).frozen == compiled.frozen


def test_the_backbone_of_photos_is_a_third_of_the_file_it_was() -> None:
    model = zoo.photos()
    compiled = compiler.compile(model, CROSS, batch=2, frozen="int8")
    assert audit.audit(model, compiled).difference < 1e-4
    assert len(compiled.program) < 0.36 * 4 * model.count_params()
