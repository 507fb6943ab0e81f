"""What the signatures promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import distance, train
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled
from fedfleet.models.optimiser import split
from fedfleet.wire.messages import SGD

K = tf.keras
layers = K.layers
CROSS, SQUARE = "sparse_categorical_crossentropy", "mean_squared_error"


@pytest.fixture
def net(stack: Any) -> Any:
    return stack(
        (6, 6, 1), layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3)
    )


def step(run: dict[str, Any], batch: dict[str, Any], **plan: float) -> Any:
    """The weights after one step, and its loss."""
    names = {"rate": "learning_rate", "clip": "clip_norm"}
    loss = audit.step(run, batch, **{names.get(name, name): value for name, value in plan.items()})
    return run["get"]()["weights"], loss


def test_set_then_get_is_the_identity_bit_for_bit(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    functions = run(compiled)
    odd = np.random.default_rng(0).standard_normal(compiled.weights.size).astype(np.float32)
    odd[:5] = [-0.0, 1e-42, 3e38, np.inf, -1e-7]
    assert functions["set"](weights=odd)["ok"].tolist() == [1]
    assert functions["get"]()["weights"].tobytes() == odd.tobytes()


def test_a_batch_of_one_through_layers_of_one(stack: Any, run: Any) -> None:
    model = stack((2, 3), layers.Dense(1), layers.Flatten(), layers.Dense(2), layers.Dense(1))
    compiled = compiler.compile(model, SQUARE, batch=1)
    assert train(model, compiled, run(compiled), 3) < 1e-4


def test_a_padded_batch_equals_the_smaller_one(net: Any, run: Any) -> None:
    large, small = compiler.compile(net, CROSS, batch=7), compiler.compile(net, CROSS, batch=4)
    batch = audit.examples(small)
    batch["weight"][:] = 1
    padded = {name: np.concatenate([a, np.ones((3, *a.shape[1:]), a.dtype)]) for name, a in batch.items()}
    padded["weight"][4:] = 0
    one, two = step(run(small), batch, rate=0.1), step(run(large), padded, rate=0.1)
    np.testing.assert_allclose(one[0], two[0], atol=1e-7)
    assert one[1] == pytest.approx(two[1], rel=1e-6)
    sums = [f["evaluate"](**b) for f, b in ((run(small), batch), (run(large), padded))]
    for key in ("loss", "metric", "count"):
        np.testing.assert_allclose(sums[0][key], sums[1][key], rtol=1e-6)


def test_a_batch_of_padding_alone_changes_nothing(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    batch = audit.examples(compiled) | {"weight": np.zeros(4, np.float32)}
    weights, loss = step(run(compiled), batch, rate=1.0)
    assert loss == 0
    assert weights.tobytes() == compiled.weights.tobytes()


def test_the_loss_is_a_weighted_mean(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    batch = audit.examples(compiled) | {"weight": np.array([2, 0.5, 0, 1], np.float32)}
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], net(batch["x"])).numpy()
    weights, loss = step(run(compiled), batch, rate=0.5)
    assert loss == pytest.approx(float((each * batch["weight"]).sum() / 3.5), rel=1e-5)
    wanted = compiled.weights - 0.5 * audit.gradient(net, CROSS, batch)
    np.testing.assert_allclose(weights, wanted, atol=1e-6)


@pytest.mark.parametrize("plan", [
    {"rate": 0.1, "momentum": 0.9},
    {"rate": 0.1, "proximal": 0.5},
    {"rate": 0.1, "clip": 0.01},
    {"rate": 0.1, "clip": 1e9},
    {"rate": 0.2, "momentum": 0.5, "proximal": 0.3, "clip": 0.05},
    {"rate": 0.2, "momentum": 0.5, "weight_decay": 0.1},
    {"rate": 0.2, "momentum": 0.9, "nesterov": 1.0, "clip": 0.05},
])  # fmt: skip
def test_the_optimiser_is_the_one_that_is_written_down(net: Any, run: Any, plan: dict[str, float]) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    batch, functions = audit.examples(compiled), run(compiled)
    w = anchor = compiled.weights.astype(np.float64)
    v = np.zeros_like(w)
    for _ in range(5):
        compiler.assign(net, compiled.layout, w.astype(np.float32))
        g = audit.gradient(net, CROSS, batch) + plan.get("proximal", 0) * (w - anchor)
        if (clip := plan.get("clip", 0)) > 0:
            g = g * min(1, clip / np.linalg.norm(g))
        v = plan.get("momentum", 0) * v + g
        ahead = g + plan.get("momentum", 0) * v if plan.get("nesterov") else v
        w = w - plan["rate"] * (ahead + plan.get("weight_decay", 0) * w)
        got, _ = step(functions, batch, **plan)
    np.testing.assert_allclose(got, w, atol=2e-6)


OPTIMISERS: dict[str, tuple[Any, dict[str, float]]] = {
    "sgd": (K.optimizers.SGD(0.1), {}),
    "momentum": (K.optimizers.SGD(0.1, momentum=0.9), {"momentum": 0.9}),
    "nesterov": (K.optimizers.SGD(0.1, momentum=0.9, nesterov=True), {"momentum": 0.9, "nesterov": 1.0}),
    "adam": (K.optimizers.Adam(0.01), {"rate": 0.01, "momentum": 0.9, "second_moment": 0.999}),
    "adamw": (
        K.optimizers.AdamW(0.01, weight_decay=0.2, beta_1=0.5, global_clipnorm=0.05),
        {"rate": 0.01, "momentum": 0.5, "second_moment": 0.999, "weight_decay": 0.2, "clip": 0.05},
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_fifty_steps_of_an_optimiser_are_those_of_keras(stack: Any, run: Any, name: str) -> None:
    optimiser, plan = OPTIMISERS[name]
    model = stack((5,), layers.Dense(6, activation="tanh"), layers.Dense(3))
    compiled = compiler.compile(model, CROSS, batch=4)
    batch, functions = audit.examples(compiled), run(compiled)
    for _ in range(50):
        parts = split(tf.constant(audit.gradient(model, CROSS, batch)), compiled.layout)
        optimiser.apply_gradients(zip(parts, model.trainable_variables))
        got, _ = step(functions, batch, **{"rate": 0.1, **plan})
    moved = compiler.flatten(model) - compiled.weights
    assert distance(got - compiled.weights, moved) < 1e-4


def test_the_long_rule_without_its_terms_is_the_short_one(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    batch, functions = audit.examples(compiled), run(compiled)
    short = [step(functions, batch, rate=0.1, momentum=0.9) for _ in range(5)]
    functions["set"](weights=compiled.weights)
    # a bound that no gradient reaches
    long = [step(functions, batch, rate=0.1, momentum=0.9, clip=1e9) for _ in range(5)]
    for (a, x), (b, y) in zip(short, long):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert x == pytest.approx(y, rel=1e-5)


def test_a_step_without_scalars_leaves_the_weights_as_they_are(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    assert step(run(compiled), audit.examples(compiled))[0].tobytes() == compiled.weights.tobytes()


def test_a_correction_is_added_to_every_gradient_until_the_next_set(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    batch, functions = audit.examples(compiled), run(compiled)
    correction = np.random.default_rng(4).standard_normal(compiled.weights.size).astype(np.float32)
    plain = step(functions, batch, rate=0.1, clip=1e9)[0]
    functions["set"](weights=compiled.weights)
    functions["correct"](correction=correction)
    corrected = step(functions, batch, rate=0.1, clip=1e9)[0]
    np.testing.assert_allclose(corrected, plain - np.float32(0.1) * correction, atol=1e-6)
    functions["set"](weights=compiled.weights)
    assert step(functions, batch, rate=0.1, clip=1e9)[0].tobytes() == plain.tobytes()


@pytest.mark.parametrize("plan", [
    {"momentum": 0.9, "proximal": 1.0},
    {"momentum": 0.9, "second_moment": 0.99, "proximal": 0.1},
    {"momentum": 0.9},
])  # fmt: skip
def test_set_starts_a_round_anew(net: Any, run: Any, plan: dict[str, float]) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    batch, functions = audit.examples(compiled), run(compiled)
    first = [step(functions, batch, rate=0.1, **plan)[0].tobytes() for _ in range(3)]
    functions["set"](weights=compiled.weights + 1)
    step(functions, batch, rate=0.1, momentum=0.5, second_moment=0.5, proximal=3.0)
    functions["set"](weights=compiled.weights)
    assert [step(functions, batch, rate=0.1, **plan)[0].tobytes() for _ in range(3)] == first


def test_evaluate_sums_by_weight(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=4)
    batch = audit.examples(compiled) | {"weight": np.array([1, 2, 0, 0.5], np.float32)}
    z = net(batch["x"]).numpy()
    sums = run(compiled)["evaluate"](**batch)
    assert {name: value.shape for name, value in sums.items()} == dict.fromkeys(("loss", "metric", "count"), (1,))
    assert sums["count"][0] == 3.5
    assert sums["metric"][0] == float(((z.argmax(1) == batch["y"]) * batch["weight"]).sum())
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], z).numpy()
    assert sums["loss"][0] == pytest.approx(float((each * batch["weight"]).sum()), rel=1e-5)


def test_evaluate_of_a_regression_sums_squares(stack: Any, run: Any) -> None:
    model = stack((3,), layers.Dense(2))
    compiled = compiler.compile(model, SQUARE, batch=3)
    batch = audit.examples(compiled)
    wanted = (((model(batch["x"]).numpy() - batch["y"]) ** 2).mean(1) * batch["weight"]).sum()
    sums = run(compiled)["evaluate"](**batch)
    assert sums["loss"][0] == sums["metric"][0] == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "linear"])
def test_infer_is_the_models_own_output(stack: Any, run: Any, activation: str) -> None:
    model = stack((5,), layers.Dense(3, activation=activation))
    x = np.random.default_rng(3).standard_normal((1, 5)).astype(np.float32)
    output = run(compiler.compile(model, CROSS, batch=4))["infer"](x=x)["output"]
    np.testing.assert_allclose(output, model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_a_final_softmax_does_not_lose_large_logits(stack: Any, run: Any) -> None:
    model = stack((1,), layers.Dense(2, activation="softmax", use_bias=False))
    compiled = compiler.compile(model, CROSS, batch=1)
    functions = run(compiled)
    functions["set"](weights=np.array([200, -200], np.float32))
    batch = {"x": np.ones((1, 1), np.float32), "y": np.array([1], np.int32), "weight": np.ones(1, np.float32)}
    weights, loss = step(functions, batch, rate=1.0)
    assert loss == 400
    assert weights.tolist() == [199, -199]


def test_the_same_model_gives_the_same_bytes(net: Any) -> None:
    one, two = compiler.compile(net, CROSS, batch=3), compiler.compile(net, CROSS, batch=3)
    assert one.program == two.program
    assert one.digest == two.digest
    assert one.digest != compiler.compile(net, CROSS, batch=4).digest


def test_the_weights_are_not_in_the_program(net: Any) -> None:
    before = compiler.compile(net, CROSS, batch=3)
    compiler.assign(net, before.layout, before.weights + 1)
    after = compiler.compile(net, CROSS, batch=3)
    assert after.program == before.program
    np.testing.assert_array_equal(after.weights, before.weights + 1)


def test_a_program_does_not_grow_with_its_weights(stack: Any) -> None:
    small, large = (stack((4,), layers.Dense(n), layers.Dense(2)) for n in (8, 4000))
    sizes = [len(compiler.compile(model, CROSS, batch=2).program) for model in (small, large)]
    assert abs(sizes[0] - sizes[1]) < 500


def test_constants_are_aligned(net: Any) -> None:
    program = compiler.compile(net, CROSS, batch=3).program
    model = schema.Model.GetRootAsModel(program, 0)
    start = np.frombuffer(program, np.uint8).__array_interface__["data"][0]
    buffers = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength())]
    places = [b.__array_interface__["data"][0] - start for b in buffers if isinstance(b, np.ndarray) and b.size]
    assert len(places) > 5
    assert not any(place % 16 for place in places)


def test_signatures_have_static_shapes_and_no_scalars(net: Any, run: Any) -> None:
    compiled = compiler.compile(net, CROSS, batch=3)
    inputs = {k: tuple(d["shape"]) for k, d in run(compiled)["train"].get_input_details().items()}
    one = dict.fromkeys(SGD, (1,))
    assert inputs == {"x": (3, 6, 6, 1), "y": (3,), "weight": (3,)} | one


ALONE = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from fedfleet.models.compiled import load
from fedfleet.models.runtime import interpreter
compiled = load(sys.argv[1])
loaded = interpreter(compiled.program)
run = {name: loaded.get_signature_runner(name) for name in loaded.get_signature_list()}
run["set"](weights=compiled.weights)
one, rows = np.ones(1, np.float32), compiled.batch
batch = dict(x=np.ones((rows, *compiled.input_shape), np.float32), y=np.zeros(rows, np.int32))
plan = dict(learning_rate=one * 0.1, momentum=one * 0)
losses = [run["train"](weight=np.ones(rows, np.float32), **batch, **plan)["loss"][0] for _ in range(20)]
assert losses[-1] < losses[0] / 2, losses
print("trained")
"""


def test_it_trains_where_tensorflow_cannot_be_imported(net: Any, tmp_path: Path) -> None:
    compiler.compile(net, CROSS, batch=3).save(tmp_path)
    path = [str(Path(entry).resolve()) for entry in sys.path if entry]
    code = f"import sys; sys.path[:] = {path!r}\n{ALONE}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "trained", done.stderr


def test_weights_come_back_into_keras(net: Any, run: Any) -> None:
    compiled: Compiled = compiler.compile(net, CROSS, batch=4)
    batch = audit.examples(compiled)
    functions = run(compiled)
    trained, _ = step(functions, batch, rate=0.3)
    compiler.assign(net, compiled.layout, trained)
    np.testing.assert_array_equal(compiler.flatten(net), trained)
    np.testing.assert_allclose(functions["infer"](x=batch["x"][:1])["output"], net(batch["x"][:1]).numpy(), atol=1e-5)
