"""Recurrent layers written out step by step while a model is traced: a loop has no gradient in LiteRT builtins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from fedfleet.wire.errors import ModelError

MAX_STEPS = 512
# Keras 2 would take a fused kernel with a loop inside, whatever `unroll` says
SWITCHES = {"unroll": True, "_could_use_gpu_kernel": False}


@contextmanager
def unrolled(model: Any) -> Iterator[None]:
    """Every recurrent layer of the model unrolls while the block lasts; ModelError for one that cannot."""
    found = [layer for layer in everywhere(model) if isinstance(layer, tf.keras.layers.RNN)]
    for layer in found:
        _check(layer)
    kept = [(layer, {name: vars(layer)[name] for name in SWITCHES if name in vars(layer)}) for layer in found]
    try:
        for layer, before in kept:
            vars(layer).update({name: SWITCHES[name] for name in before}, call=_bounded(layer))
        yield
    finally:
        for layer, before in kept:
            vars(layer).update(before)
            vars(layer).pop("call", None)


def everywhere(model: Any) -> Iterator[Any]:
    """All layers at any depth, those inside wrappers and cells too."""
    yield from model._flatten_layers(include_self=False)


def _check(layer: Any) -> None:
    if layer.stateful:
        raise ModelError(f"layer {layer.name!r}: a state kept between batches has no training program; drop stateful")
    cells = getattr(layer.cell, "cells", [layer.cell])
    if any(getattr(cell, name, 0) for cell in cells for name in ("dropout", "recurrent_dropout")):
        raise ModelError(f"layer {layer.name!r}: dropout inside a recurrent layer has no training program; use Dropout")


def _bounded(layer: Any) -> Callable[..., Any]:
    """The layer's call, which writes out as many steps as a program can hold, and leaves a longer loop as it is."""
    call = layer.call

    def bounded(sequences: Any, *rest: Any, **named: Any) -> Any:
        # an error from here would reach the user in Keras's words, so the loop is found and named in the trace
        steps = sequences.shape[0 if getattr(layer, "time_major", False) else 1]
        vars(layer)["unroll"] = steps <= MAX_STEPS
        return call(sequences, *rest, **named)

    return bounded
