"""`python -m fedfleet.cloud.tff.worker`: combines updates, and steps, by TensorFlow Federated."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.cloud.tff.aggregators import process
from fedfleet.cloud.tff.factory import Factory
from fedfleet.cloud.tff.optimizers import optimizer
from fedfleet.cloud.tff.packing import packed, unpacked
from fedfleet.cloud.tff.pipe import Array, Message
from fedfleet.cloud.tff.serving import serve
from fedfleet.wire.errors import SettingsError


def begin(header: dict[str, Any], arrays: list[Array]) -> Message:
    """The state that a rule starts from, once it has combined an update of nothing."""
    start = packed(tf.nest.flatten(_begun(header)[1]))
    _combined(header, start, [1.0], [np.zeros(header["parameters"], np.float32)])
    return {}, [start]


def combine(header: dict[str, Any], arrays: list[Array]) -> Message:
    """What a rule makes of its state, the examples, float64[n], and n updates: its new state, and float32[P]."""
    state, examples, *updates = arrays
    return {}, list(_combined(header, state, [float(each) for each in examples], updates))


def step(header: dict[str, Any], arrays: list[Array]) -> Message:
    """What an optimizer makes of weights, difference and moments: new weights, float32[P], and moments."""
    weights, difference, moments = (np.array(array) for array in arrays)
    found = optimizer(header["algorithm"], header["rate"])
    spec = tf.TensorSpec(weights.shape, tf.float32)
    begun = found.initialize(spec)
    state = type(begun)((name, tf.convert_to_tensor(value)) for name, value in begun.items())
    kept = [name for name in state if name not in found.get_hparams(state)]
    for name, row in zip(kept, moments, strict=True):
        like = state[name]
        state[name] = tf.constant(row if like.shape.rank else row[0], like.dtype)
    state, moved = found.next(state, tf.constant(weights), tf.constant(-difference))
    rows = [np.broadcast_to(np.asarray(state[name], np.float64), weights.shape) for name in kept]
    return {}, [np.asarray(moved), np.stack(rows) if rows else moments]


def _combined(header: dict[str, Any], state: Array, examples: list[float], updates: list[Array]) -> tuple[Array, Array]:
    made, start = _begun(header)
    before = tf.nest.pack_sequence_as(start, unpacked(state, tf.nest.flatten(start)))
    output = made.next(before, updates, [np.float32(each) for each in examples])
    if not np.isfinite(output.result).all():
        raise SettingsError(
            f"{header['name']} makes numbers that are not finite; ask for less noise, or another factory"
        )
    return packed(tf.nest.flatten(output.state)), np.asarray(output.result, np.float32)


def _begun(header: dict[str, Any]) -> tuple[Any, Any]:
    """The process of a rule, and the state that it begins with."""
    return _process(header["name"], header["file"], tuple(header["given"].items()), header["parameters"])


@cache
def _process(name: str, file: str, given: tuple[tuple[str, Any], ...], parameters: int) -> tuple[Any, Any]:
    made = process(Factory(name, file, dict(given)), parameters)
    return made, made.initialize()


if __name__ == "__main__":
    serve({"begin": begin, "combine": combine, "step": step})
