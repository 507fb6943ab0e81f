"""A compiled program held against TensorFlow: builtin ops only, no rank-0 inputs, and one step that equals Keras's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from fedfleet.models.compiled import Compiled, Weights, arranged
from fedfleet.models.dropout import mask
from fedfleet.models.int8 import rounded
from fedfleet.models.losses import LOSSES
from fedfleet.models.noise import Drop, replaced
from fedfleet.models.program import LOCAL, SIGNATURES
from fedfleet.models.runtime import interpreter
from fedfleet.models.unroll import everywhere
from fedfleet.wire.errors import ModelError, ProgramError
from fedfleet.wire.messages import SCALARS, SGD

TOLERANCE = 1e-4
BATCHES = 4
# large, so that weights near 1 do not round the step away; a power of two, so that it rounds nothing itself
RATE = 1024.0
CUSTOM = schema.BuiltinOperator.CUSTOM
NAMES = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


@dataclass(frozen=True)
class Report:
    """What was found: the program's size, its ops by name, the step's difference to Keras and its time here.

    `shared` and `local` parameters train on a device, and the shared ones travel; `frozen` ones stand in the program.
    """

    shared: int
    local: int
    frozen: int
    program_bytes: int
    ops: Mapping[str, int]
    difference: float
    step_ms: float


def audit(model: Any, compiled: Compiled) -> Report:
    """Runs the program beside the model it came from; ModelError where they differ or a device could not run it."""
    ops = histogram(compiled.program)
    run = _signatures(compiled)
    below, differences = vocabulary(model), list[float]()
    for seed in range(BATCHES):
        batch = examples(compiled, below, seed) | seeds(run)
        differences.append(_difference(model, compiled, run, batch))
        # a number near the kink of a relu may fall on either side of it, but hardly in every batch
        if differences[-1] <= TOLERANCE:
            break
    difference = min(differences)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"one step of the program differs from Keras by {difference:.1e} (at most {TOLERANCE}); report it as a bug"
        )
    shared, local, frozen = parameters(model, compiled)
    return Report(shared, local, frozen, len(compiled.program), ops, difference, _milliseconds(run, batch))


def step_ms(compiled: Compiled) -> float:
    """The best time of a training step here, on one core."""
    run = _signatures(compiled)
    run["set"](weights=compiled.weights)
    return _milliseconds(run, examples(compiled) | seeds(run))


def parameters(model: Any, compiled: Compiled) -> tuple[int, int, int]:
    """How many of the model's parameters are shared, local to each device, and frozen."""
    trained = {kind: sum(e.size for e in compiled.layout if e.shared == kind) for kind in (True, False)}
    every = sum(int(np.prod(weight.shape)) for weight in model.weights)
    return trained[True], trained[False], every - compiled.weights.size


def histogram(program: bytes) -> dict[str, int]:
    """How often each op stands in the program; ModelError for an op that needs more than the LiteRT runtime."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(program, 0))
    counts: Counter[str] = Counter()
    for graph in model.subgraphs:
        for op in graph.operators or []:
            code = model.operatorCodes[op.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            if number == CUSTOM:
                name = (code.customCode or b"").decode()
                raise ModelError(f"op {name} is no LiteRT builtin; replace the layer that needs it")
            counts[NAMES[number]] += 1
    return dict(sorted(counts.items()))


def examples(compiled: Compiled, below: int = 0, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """A random batch that fits the program, its last row masked where there are several; from one seed.

    x lies between 0 and 1, or is whole numbers from 0 to `below`, exclusive.
    """
    random = np.random.default_rng(seed)
    rows = compiled.batch
    weight = np.ones(rows, np.float32)
    weight[1:][-1:] = 0
    if compiled.loss == "sparse_categorical_crossentropy":
        y: npt.NDArray[Any] = random.integers(0, compiled.output_shape[-1], rows).astype(np.int32)
    elif compiled.loss == "categorical_crossentropy":
        y = random.dirichlet(np.ones(compiled.output_shape[-1]), rows).astype(np.float32)
    else:
        y = random.random((rows, *compiled.output_shape), np.float32)
    x = random.random((rows, *compiled.input_shape), np.float32)
    return {"x": np.floor(x * below) if below else x, "y": y, "weight": weight}


def seeds(run: Mapping[str, Any], number: int = 1) -> dict[str, npt.NDArray[Any]]:
    """The seed of a step, for a program whose `train` takes one."""
    return {"seed": np.array([number], np.int32)} if "seed" in run["train"].get_input_details() else {}


def vocabulary(model: Any) -> int:
    """How many rows the model's smallest embedding has; 0 for a model without one, whose x need not be whole."""
    sizes = [layer.input_dim for layer in everywhere(model) if isinstance(layer, tf.keras.layers.Embedding)]
    return min(sizes, default=0)


def gradient(model: Any, loss: str, batch: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """TensorFlow's flat gradient of the masked mean loss by the model's trainable weights.

    Where the batch has a seed, dropout layers multiply by the masks that follow from it.
    """

    def drop(what: Drop, x: Any) -> Any:
        shape = [1 if axis in what.repeats else n for axis, n in enumerate(x.shape)]
        table = mask(tf.constant(batch["seed"]), what.number, shape[0], int(np.prod(shape[1:])), what.rate)
        return x * tf.reshape(table, shape)

    y, weight = tf.constant(batch["y"]), tf.constant(batch["weight"])
    dropping = replaced(model, drop) if "seed" in batch else nullcontext()
    with dropping, tf.GradientTape() as tape:
        output = model(tf.constant(batch["x"]), training=False)
        each = _reference(loss, y, _logits(output) if LOSSES[loss].final == "Softmax" else output, _final(model))
        mean = tf.reduce_sum(each * weight) / tf.maximum(tf.reduce_sum(weight), 1.0)
    parts = tape.gradient(mean, model.trainable_variables, unconnected_gradients="zero")
    return np.concatenate([np.asarray(tf.convert_to_tensor(part), np.float32).reshape(-1) for part in parts])


def step(run: Mapping[str, Any], batch: Mapping[str, npt.NDArray[Any]], **plan: float) -> float:
    """One step as a device makes it, by a plan's scalars; returns the loss before it."""
    one = {name: np.array([plan.pop(name, 0.0)], np.float32) for name in SCALARS}
    if plan:
        raise TypeError(f"{', '.join(plan)}: not among {', '.join(SCALARS)}")
    long = any(one[name] for name in SCALARS if name not in SGD)
    loss = run["train"](**batch, **{name: one[name] * (not long) for name in SGD})["loss"]
    if long:
        run["adapt"](**one)
    return float(loss[0])


def _reference(loss: str, y: Any, output: Any, final: str) -> Any:
    """TensorFlow's own loss by example."""
    if loss == "sparse_categorical_crossentropy":
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)
    if loss == "categorical_crossentropy":
        return tf.nn.softmax_cross_entropy_with_logits(y, output)
    y, output = (tf.reshape(t, [t.shape[0], -1]) for t in (y, output))
    if loss == "binary_crossentropy":
        z = tf.math.log(output) - tf.math.log1p(-output) if final == "sigmoid" else output
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, z), 1)
    return tf.keras.losses.get(loss)(y, output)


def _logits(output: Any) -> Any:
    """The output, or where all rows are distributions, as a final softmax makes them, their logarithm."""
    values = output.numpy()
    probabilities = (values >= 0).all() and np.allclose(values.sum(-1), 1, atol=1e-4)
    # log(softmax(z)) and z have the same cross-entropy, and only a model's probabilities are its own output
    return tf.math.log(output) if probabilities else output


def _final(model: Any) -> str:
    """The activation that ends the model, or its last layer, in lower case."""
    last = model.layers[-1]
    if isinstance(last, tf.keras.Model):
        return _final(last)
    return str(getattr(getattr(last, "activation", last), "__name__", type(last).__name__)).lower()


def _signatures(compiled: Compiled) -> dict[str, Any]:
    """The program's signatures as functions; ModelError for a rank-0 input or one that is missing."""
    loaded = interpreter(compiled.program)
    listed = loaded.get_signature_list()
    if sorted(set(listed) - {LOCAL}) != sorted(SIGNATURES):
        raise ModelError(f"the program has the signatures {sorted(listed)}; compile it again")
    run = {name: loaded.get_signature_runner(name) for name in SIGNATURES}
    for name, signature in run.items():
        for key, detail in signature.get_input_details().items():
            if len(detail["shape"]) == 0:
                raise ModelError(f"input {key} of {name} has rank 0, which crashes LiteRT on some boards")
    return run


def _difference(model: Any, compiled: Compiled, run: Mapping[str, Any], batch: Mapping[str, npt.NDArray[Any]]) -> float:
    """The distance between the program's gradient and TensorFlow's, relative to the latter's norm."""
    with rounded(model, compiled.frozen):
        wanted = arranged(gradient(model, compiled.loss, batch), compiled.layout).astype(np.float64)
    try:
        found = [_moved(compiled.weights, run, batch, plan) for plan in ({}, {"clip_norm": 1e9})]
    except (RuntimeError, ValueError) as error:
        raise ProgramError(f"the LiteRT runtime cannot run the program: {str(error).splitlines()[0]}") from error
    return max(float(np.linalg.norm(g - wanted)) for g in found) / max(float(np.linalg.norm(wanted)), 1e-12)


def _moved(
    weights: Weights, run: Mapping[str, Any], batch: Mapping[str, npt.NDArray[Any]], plan: Mapping[str, float]
) -> npt.NDArray[np.float64]:
    """The gradient by which one step goes."""
    run["set"](weights=weights)
    step(run, batch, learning_rate=RATE, **plan)
    return np.asarray((weights.astype(np.float64) - run["get"]()["weights"]) / RATE)


def _milliseconds(run: Mapping[str, Any], batch: Mapping[str, npt.NDArray[Any]], steps: int = 20) -> float:
    """The best time of a step; the learning rate is 0."""
    best = float("inf")
    for _ in range(steps):
        start = time.perf_counter()
        step(run, batch)
        best = min(best, time.perf_counter() - start)
    return best * 1e3
