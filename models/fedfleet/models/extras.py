"""What a Keras model asks for besides its forward pass. None of it would happen on a device, so it is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from fedfleet.models.unroll import everywhere
from fedfleet.wire.errors import ModelError

TRAINING = ("train_step", "compute_loss", "fit", "train_on_batch", "make_train_function")
WEIGHED = ("_regularizer", "_constraint")


def refuse(model: Any) -> None:
    """ModelError for a training loop, a regularizer, a constraint or an added loss; the model has been traced."""
    for name in TRAINING:
        if getattr(type(model), name, None) is not getattr(tf.keras.Model, name, None):
            raise ModelError(
                f"model {model.name!r}: its {name} would not run on a device, which steps by the loss alone; "
                "build a plain keras.Model"
            )
    for layer in everywhere(model):
        for name in _weighed(layer):
            raise ModelError(f"layer {layer.name!r}: its {name} would not act on a device; {_instead(name)}")
        if _trains(layer) and layer.losses:
            raise ModelError(f"layer {layer.name!r}: the loss that it adds would not count on a device; leave it out")


def _trains(layer: Any) -> bool:
    """Whether what the layer asks for could move a weight; nested models are asked layer by layer."""
    return not isinstance(layer, tf.keras.Model) and bool(layer.trainable_weights or not layer.weights)


def _weighed(layer: Any) -> Iterator[str]:
    """The layer's regularizers and constraints, by their names."""
    if _trains(layer):
        for name in dir(layer):
            found = getattr(layer, name, None) if name.endswith(WEIGHED) else None
            if callable(found) and not inspect.ismethod(found):  # Keras 2 keeps a list under such a name
                yield name.lstrip("_")


def _instead(name: str) -> str:
    decays = name.endswith("_regularizer") and not name.startswith("activity")
    return "leave it out, a plan's weight_decay does alike" if decays else "leave it out"
