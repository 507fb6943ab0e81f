"""Where each trainable weight lies in the flat vector: first those that travel, then those of local layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models.compiled import MAX_PARAMETERS, Entry
from fedfleet.wire.errors import ModelError
from fedfleet.wire.messages import MAX_BLOB


def layout(model: Any, local: Sequence[str] = ()) -> tuple[Entry, ...]:
    """The entries of all trainable weights, the layers named in `local` last; ModelError says what prevents it."""
    stay = {id(weight) for name in local for weight in _trainable(model, name)}
    entries = [_entry(weight, place, id(weight) not in stay) for place, weight in enumerate(model.trainable_weights)]
    if not entries:
        raise ModelError(f"model {model.name!r} has nothing to train; set trainable=True on a layer that has weights")
    if not any(entry.shared for entry in entries):
        raise ModelError(f"all weights of model {model.name!r} would stay local; leave a layer to share")
    found: list[Entry] = []
    offset = 0
    for entry in sorted(entries, key=lambda entry: not entry.shared):
        found.append(replace(entry, offset=offset))
        offset += entry.size
    if offset > MAX_PARAMETERS:
        raise ModelError(f"model {model.name!r} has {offset} parameters, more than {MAX_PARAMETERS}; make it smaller")
    carried = sum(map(_bytes, model.non_trainable_weights)) + 4 * sum(e.size for e in found if not e.shared)
    if carried > MAX_BLOB:
        raise ModelError(
            f"model {model.name!r} has {carried} bytes of frozen and local weights, and a program carries at most "
            f"{MAX_BLOB}; make it smaller"
        )
    return tuple(found)


def _bytes(weight: Any) -> int:
    return int(np.prod(weight.shape, dtype=np.int64)) * int(tf.as_dtype(weight.dtype).size)


def _entry(weight: Any, place: int, shared: bool) -> Entry:
    name = getattr(weight, "path", weight.name).removesuffix(":0")
    if tf.as_dtype(weight.dtype) != tf.float32:
        raise ModelError(f"weight {name} is {tf.as_dtype(weight.dtype).name}; build the model in float32")
    return Entry(name, tuple(weight.shape), 0, int(np.prod(weight.shape, dtype=np.int64)), shared, place)


def _trainable(model: Any, name: str) -> list[Any]:
    """The trainable weights of the layers called `name`, in nested models too."""
    layers = [layer for layer in _layers(model) if layer.trainable_weights]
    weights = [weight for layer in layers if layer.name == name for weight in layer.trainable_weights]
    if not weights:
        known = ", ".join(layer.name for layer in layers)
        raise ModelError(f"no layer {name!r} that trains; the layers that train are: {known}")
    return weights


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, tf.keras.Model):
            yield from _layers(layer)
