"""Dropout that follows from a seed: the numbers themselves, then programs, then a device that hands out seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import train

from fedfleet.edge.data import batches
from fedfleet.edge.local import fit
from fedfleet.edge.runtime import Program
from fedfleet.models import audit, compiler
from fedfleet.models.compiled import Compiled
from fedfleet.models.dropout import P, mask, words
from fedfleet.models.noise import dropouts, replaced
from fedfleet.models.program import convert
from fedfleet.models.runtime import interpreter
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Plan

K = tf.keras
layers = K.layers
SQUARE = "mean_squared_error"
LAST = 2**31 - 1
GOLDEN = [[[6677, 29773, 1416], [45250, 44580, 19176]], [[6511, 8219, 8935], [22173, 4055, 24802]]]
SEEDS = [0, 1, P - 1, P, LAST, *(int(seed) for seed in np.random.default_rng(0).integers(0, LAST, 20))]


def wide(seed: int, number: int, rows: int, columns: int) -> Any:
    """The generator in 64 bits: nothing overflows there."""
    return words(np.array([seed], np.int64), number, rows, columns)


def kept(seed: int, number: int = 0, rate: float = 0.5) -> Any:
    return (wide(seed, number, 32, 1000) < (1 - rate) * P).astype(float)


def likeness(a: Any, b: Any) -> float:
    """How many standard deviations the correlation of two masks is from 0."""
    return float(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(a.size))


def test_the_numbers_are_the_ones_that_boards_in_the_field_make() -> None:
    assert wide(0, 0, 2, 3).tolist() == GOLDEN[0]
    assert wide(LAST, 7, 2, 3).tolist() == GOLDEN[1]


@pytest.mark.parametrize("seed", [0, 1, P, LAST])
def test_a_board_makes_the_same_mask_bit_for_bit(seed: int) -> None:
    shape = (5, 3, 1000, 0.3)
    spec = tf.TensorSpec([1], tf.int32, "seed")
    concrete = tf.function(lambda seed: {"mask": mask(seed, *shape[:1], *shape[1:])}).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    program = convert(converter)
    audit.histogram(program)
    loaded = interpreter(program)
    loaded.allocate_tensors()
    loaded.set_tensor(loaded.get_input_details()[0]["index"], np.array([seed], np.int32))
    loaded.invoke()
    found = loaded.get_tensor(loaded.get_output_details()[0]["index"])
    wanted = np.where(wide(seed, *shape[:3]) < round(0.7 * P), np.float32(1 / 0.7), np.float32(0))
    assert found.tobytes() == wanted.astype(np.float32).tobytes()
    assert mask(tf.constant([seed]), *shape).numpy().tobytes() == found.tobytes()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_as_many_are_dropped_as_asked(rate: float) -> None:
    deviation = np.sqrt(rate * (1 - rate))
    masks = np.stack([kept(seed, rate=rate) for seed in SEEDS])
    assert abs(masks.mean() - (1 - rate)) < 3 * deviation / np.sqrt(masks.size)
    for mean, of in ((masks.mean((1, 2)), 32_000), (masks.mean(2), 1000), (masks.mean(1), 32)):
        spread = ((mean - (1 - rate)) / deviation) ** 2 * of
        assert abs(spread.mean() - 1) < 5 * np.sqrt(2 / spread.size)


def test_masks_are_unlike_their_neighbours() -> None:
    worst = 0.0
    for seed in SEEDS:
        one = kept(seed)
        worst = max(
            worst,
            likeness(one, kept((seed + 1) % 2**31)),
            likeness(one, kept(seed, 1)),
            likeness(one[1:], one[:-1]),
            likeness(one[:, 1:], one[:, :-1]),
            likeness(one[1:, 1:], one[:-1, :-1]),
        )
    assert worst < 4.5  # of 125 numbers with deviation 1


def test_columns_do_not_begin_again() -> None:
    numbers = wide(3, 0, 2, P + 1000)
    assert (numbers[:, :1000] == numbers[:, P:]).mean() < 0.01
    assert numbers.min() >= 0
    assert numbers.max() < P


def attention() -> Any:
    inside = K.Input((4, 3))
    x = layers.Dense(4)(inside)
    return K.Model(inside, layers.Dense(2)(layers.Flatten()(layers.MultiHeadAttention(2, 3, dropout=0.3)(x, x))))


def stacked(shape: tuple[int, ...], *stack: Any) -> Any:
    return K.Sequential([K.Input(shape), layers.Dense(6), *stack, layers.Flatten(), layers.Dense(2)])


MODELS: dict[str, Callable[[], Any]] = {
    "Dropout": lambda: stacked((7,), layers.Dropout(0.5)),
    "twice": lambda: stacked((7,), layers.Dropout(0.2), layers.Dense(5, "relu"), layers.Dropout(0.4)),
    "of columns": lambda: stacked((4, 3), layers.Dropout(0.3, noise_shape=(None, 1, None))),
    "of all alike": lambda: stacked((4, 3), layers.Dropout(0.3, noise_shape=(1, 4, 6))),
    "SpatialDropout1D": lambda: stacked((4, 3), layers.SpatialDropout1D(0.3), layers.GRU(2)),
    "SpatialDropout2D": lambda: stacked((4, 3, 2), layers.SpatialDropout2D(0.3), layers.Conv2D(2, 2)),
    "MultiHeadAttention": attention,
    "everything": lambda: stacked((3,), layers.Dropout(1.0)),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_tensorflow_does_with_the_same_masks(name: str, run: Any) -> None:
    model = MODELS[name]()
    compiled = compiler.compile(model, SQUARE, batch=3)
    audit.histogram(compiled.program)
    assert train(model, compiled, run(compiled), 3) < 1e-4
    assert "call" not in {key for layer in dropouts(model) for key in vars(layer)}


@pytest.fixture(scope="module")
def noisy() -> tuple[Any, Compiled]:
    model = K.Sequential([K.Input((6,)), layers.Dense(40, "relu"), layers.Dropout(0.5), layers.Dense(3)])
    return model, compiler.compile(model, SQUARE, batch=4)


def test_only_a_training_step_takes_a_seed(noisy: tuple[Any, Compiled], stack: Any, run: Any) -> None:
    functions = run(noisy[1])
    detail = functions["train"].get_input_details()["seed"]
    assert (tuple(detail["shape"]), detail["dtype"]) == ((1,), np.int32)
    assert not [name for name in ("evaluate", "infer") if "seed" in functions[name].get_input_details()]
    quiet = compiler.compile(stack((6,), layers.Dense(4), layers.Dropout(0.0), layers.Dense(2)), SQUARE, batch=4)
    assert "seed" not in run(quiet)["train"].get_input_details()


def test_evaluation_and_inference_drop_nothing(noisy: tuple[Any, Compiled], run: Any) -> None:
    model, compiled = noisy
    batch, functions = audit.examples(compiled), run(compiled)
    output = model(batch["x"], training=False).numpy()
    np.testing.assert_allclose(functions["infer"](x=batch["x"][:1])["output"], output[:1], rtol=1e-5, atol=1e-6)
    loss = (((output - batch["y"]) ** 2).mean(1) * batch["weight"]).sum()
    assert functions["evaluate"](**batch)["loss"][0] == pytest.approx(float(loss), rel=1e-5)


def test_a_seed_decides_what_is_dropped(noisy: tuple[Any, Compiled], run: Any) -> None:
    compiled = noisy[1]
    functions = run(compiled)

    def loss(seed: int) -> float:
        batch = audit.examples(compiled) | audit.seeds(functions, seed)
        return audit.step(functions, batch)

    losses = [loss(seed) for seed in range(8)]
    assert len({*losses}) == 8
    assert [loss(seed) for seed in range(8)] == losses


def test_a_program_with_other_masks_is_caught(noisy: tuple[Any, Compiled], run: Any) -> None:
    model, compiled = noisy
    assert audit.audit(model, compiled).difference < 1e-4
    batch = audit.examples(compiled)
    one, two, none = (audit.gradient(model, SQUARE, batch | seed) for seed in (
        audit.seeds(run(compiled), 1), audit.seeds(run(compiled), 2), {}))  # fmt: skip
    assert np.linalg.norm(one - two) > 0.1 * np.linalg.norm(one)
    assert np.linalg.norm(one - none) > 0.1 * np.linalg.norm(one)


def test_layers_drop_as_before_once_it_is_over(noisy: tuple[Any, Compiled]) -> None:
    layer = dropouts(noisy[0])[0]
    x = tf.ones((1, 4))
    with pytest.raises(ZeroDivisionError), replaced(noisy[0], lambda what, x: x * what.rate):
        assert layer(x).numpy().tolist() == [[0.5] * 4]
        _ = 1 / 0
    assert layer(x).numpy().tolist() == [[1] * 4]


def test_a_device_counts_seeds_up(noisy: tuple[Any, Compiled], tmp_path: Path) -> None:
    compiled = noisy[1]
    (tmp_path / "program").write_bytes(compiled.program)
    program = Program(tmp_path / "program", Blob.of(compiled.program).digest)
    assert program.seeded
    random = np.random.default_rng(2)
    part = Examples(random.random((12, 6), np.float32), random.random((12, 3), np.float32))
    plan = Plan(learning_rate=0.1, steps=3)

    def trained(seed: int) -> Any:
        program.set(compiled.weights)
        assert fit(program, plan, batches([part], 4, 1, steps=3), lambda: False, seed) is not None
        return program.get()

    first = trained(2**64 - 2)
    assert first.tobytes() == trained(2**31 - 2).tobytes()
    assert first.tobytes() != trained(5).tobytes()
    rates = {"learning_rate": 0.1, "momentum": 0}
    program.set(compiled.weights)
    for seed, batch in zip((LAST - 1, LAST, 0), batches([part], 4, 1, steps=3)):
        scalars = {name: np.array([value], np.float32) for name, value in rates.items()}
        program.train(**batch._asdict(), **scalars, seed=np.array([seed], np.int32))
    assert program.get().tobytes() == first.tobytes()
