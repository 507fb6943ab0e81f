"""Dropout layers while a model is traced or compared: what each of their calls does is left to a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import tensorflow as tf

from fedfleet.models.unroll import everywhere
from fedfleet.wire.errors import ModelError

Tensor = Any
MARK = "PreventGradient"  # an identity with a text, which no layer uses
SPATIAL = {"SpatialDropout1D": (1,), "SpatialDropout2D": (1, 2), "SpatialDropout3D": (1, 2, 3)}
REFUSED = {"AlphaDropout": "rate", "GaussianDropout": "rate", "GaussianNoise": "stddev"}


class Drop(NamedTuple):
    """One call of a dropout layer: the how many-th of the model, its rate, and the axes along which a mask repeats."""

    number: int
    rate: float
    repeats: tuple[int, ...]


def dropouts(model: Any) -> list[Any]:
    """The model's dropout layers that drop something; ModelError for a kind of noise that has no training program."""
    layers = list(everywhere(model))
    for layer in layers:
        kind = type(layer).__name__
        if getattr(layer, REFUSED.get(kind, ""), 0):
            raise ModelError(f"layer {layer.name!r}: {kind} has no training program for the device; use Dropout")
    known = {getattr(tf.keras.layers, name).call for name in ("Dropout", *SPATIAL)}
    return [layer for layer in layers if type(layer).call in known and layer.rate > 0]


@contextmanager
def replaced(model: Any, drop: Callable[[Drop, Tensor], Tensor]) -> Iterator[None]:
    """Every dropout layer does what `drop` does while the block lasts, whether the model trains or not."""
    found, numbers = dropouts(model), count()
    try:
        for layer in found:
            vars(layer)["call"] = _call(layer, numbers, drop)
        yield
    finally:
        for layer in found:
            vars(layer).pop("call", None)


def mark(drop: Drop, x: Tensor) -> Tensor:
    """x through an op that `trace` finds again by its text."""
    return tf.raw_ops.PreventGradient(input=x, message=json.dumps(drop))


def marked(text: bytes) -> dict[str, Any]:
    """What `mark` wrote, by name."""
    number, rate, repeats = json.loads(text)
    return Drop(number, rate, tuple(repeats))._asdict()


def _call(layer: Any, numbers: Iterator[int], drop: Callable[[Drop, Tensor], Tensor]) -> Callable[..., Tensor]:
    def call(inputs: Tensor, *_rest: Any, **_named: Any) -> Tensor:
        return drop(Drop(next(numbers), float(layer.rate), _repeats(layer, inputs)), inputs)

    return call


def _repeats(layer: Any, x: Tensor) -> tuple[int, ...]:
    """The axes along which the layer's mask has size one and x has not."""
    if (kind := type(layer).__name__) in SPATIAL:
        last = getattr(layer, "data_format", "channels_last") == "channels_last"
        return tuple(axis if last else axis + 1 for axis in SPATIAL[kind])
    wanted = layer.noise_shape or (None,) * len(x.shape)
    return tuple(axis for axis, size in enumerate(wanted) if size == 1 and x.shape[axis] != 1)
