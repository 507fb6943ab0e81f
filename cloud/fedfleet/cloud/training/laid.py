"""A Keras model whose weights lie on a mesh of devices (`tf.experimental.dtensor`), as it is, layer by layer.

Every weight with an axis that divides by the mesh's dimension `model` is kept in parts, one on each device along it.
Where the layer is a product with that weight, each device computes with its own part; any other layer gathers the parts
of its own weights for as long as it computes. TensorFlow is loaded here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.experimental import dtensor

from fedfleet.models.trace import variable
from fedfleet.wire.errors import ModelError

Tensor = Any
BATCH, MODEL = "batch", "model"
PRODUCTS = (tf.keras.layers.Dense, tf.keras.layers.Embedding)


@dataclass(frozen=True)
class Placed:
    """Where one weight is: `parts` is how many devices share it, 1 where each has all of it."""

    name: str
    bytes: int
    parts: int


class Laid:
    """`model` with its weights on `mesh`; it is called as the model itself, inside a `tf.function`.

    With `apart`, dense and embedding layers compute in parts; without, all layers gather their weights. Raises
    ModelError for a layer whose weights cannot be replaced.
    """

    def __init__(self, model: Any, mesh: Any, *, apart: bool) -> None:
        self._model = model
        self._shown, self._still = list(model.trainable_variables), list(model.non_trainable_variables)
        self._apart = _of_products(model) if apart else set()
        self.trainable_variables = [_moved(each, _layout(each, mesh)) for each in self._shown]
        self._still_variables = [_moved(each, _layout(each, mesh, least=2)) for each in self._still]
        self._places = [] if hasattr(model, "stateless_call") else _places(model)
        if not hasattr(model, "stateless_call"):
            _unfused(model)
            self._require_places()

    @property
    def variables(self) -> list[Any]:
        """All weights on the mesh, those that train first."""
        return [*self.trainable_variables, *self._still_variables]

    @property
    def random(self) -> bool:
        """Whether a layer draws random numbers: Keras 3 keeps their seeds among the weights."""
        return any(not tf.as_dtype(each.dtype).is_floating for each in self._still)

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """Return the model's output for x [B, ...] on the mesh."""
        trainable = [self._used(*pair) for pair in zip(self._shown, self.trainable_variables)]
        if self._places:
            with self._in_place(trainable):
                return self._model(x, training=training)
        still = [_gathered(each) for each in self._still_variables]
        output, after = self._model.stateless_call(trainable, still, x, training=training)
        for each, value, new in zip(self._still_variables, still, after):
            if new is not value:
                each.assign(dtensor.relayout(new, each.layout))
        return output

    def weights(self) -> tuple[NDArray[Any], ...]:
        """Return all weights, as the model's `set_weights` takes them."""
        values = {id(shown): whole(each) for shown, each in zip([*self._shown, *self._still], self.variables)}
        return tuple(values[id(each)] for each in self._model.weights)

    def places(self) -> list[Placed]:
        """Say of every weight where it is."""
        named = zip([*self._shown, *self._still], self.variables)
        return [Placed(name_of(shown), *_extent(each)) for shown, each in named]

    def _used(self, shown: Any, placed: Any) -> Tensor:
        """What a layer computes with: its part of the weight, or all of it."""
        return placed.read_value() if id(shown) in self._apart else _gathered(placed)

    @contextmanager
    def _in_place(self, trainable: Sequence[Tensor]) -> Iterator[None]:
        """Let the layers of Keras 2 find `trainable` where their own weights were."""
        # vectors are variables still: a layer may assign to its running mean
        still = [each if len(each.shape) < 2 else _gathered(each) for each in self._still_variables]
        found = dict(zip(map(id, [*self._shown, *self._still]), [*trainable, *still]))
        try:
            for module, name, weight in self._places:
                object.__setattr__(module, name, found[id(weight)])  # Keras would take note of a new weight
            yield
        finally:
            for module, name, weight in self._places:
                object.__setattr__(module, name, weight)

    def _require_places(self) -> None:
        """Raise ModelError where a weight is no attribute of a layer."""
        found = {id(weight) for _, _, weight in self._places}
        for each in [*self._shown, *self._still]:
            if id(each) not in found:
                raise ModelError(
                    f"a mesh cannot replace weight {each.name}, which is no attribute of a layer; make it one, or "
                    "train with --strategy mirrored"
                )


def parted(value: NDArray[Any], layout: Any) -> Tensor:
    """Return a tensor on the layout's mesh, of whose parts each device gets only its own."""
    parts, axis = _cut(layout)
    pieces = np.split(value, parts, axis) if parts > 1 else [value]
    sizes = dict(zip(layout.mesh.dim_names, layout.mesh.shape()))
    batched = BATCH in layout.sharding_specs
    order = [b if batched else m for b in range(sizes[BATCH]) for m in range(sizes[MODEL])]
    return dtensor.pack([tf.constant(pieces[i if parts > 1 else 0]) for i in order], layout)


def whole(placed: Any) -> NDArray[Any]:
    """Return all of a weight on a mesh, put together in the memory of the host."""
    parts, axis = _cut(_layout_of(placed))
    value = placed.read_value() if isinstance(placed, tf.Variable) else placed
    pieces = [np.asarray(piece.numpy()) for piece in dtensor.unpack(value)[:parts]]
    return np.concatenate(pieces, axis) if parts > 1 else pieces[0]


def zeros(placed: Any) -> Any:
    """Return a variable of zeros that lies as `placed` does."""
    return dtensor.DVariable(parted(np.zeros(placed.shape, np.float32), placed.layout))


def name_of(weight: Any) -> str:
    """Return the name of a Keras weight, with that of its layer where Keras has it so."""
    return str(getattr(weight, "path", weight.name)).removesuffix(":0")


def _layout_of(placed: Any) -> Any:
    return placed.layout if isinstance(placed, tf.Variable) else dtensor.fetch_layout(placed)


def _cut(layout: Any) -> tuple[int, int]:
    """Into how many parts a layout cuts, and along which axis."""
    for axis, name in enumerate(layout.sharding_specs):
        if name != dtensor.UNSHARDED:
            return layout.mesh.dim_size(name), axis
    return 1, 0


def _extent(placed: Any) -> tuple[int, int]:
    size = math.prod(placed.shape) * int(tf.as_dtype(placed.dtype).size)
    return size, _cut(placed.layout)[0]


def _moved(weight: Any, layout: Any) -> Any:
    """Return a weight of the host as a variable on the mesh."""
    return dtensor.DVariable(parted(np.asarray(variable(weight).numpy()), layout))


def _layout(weight: Any, mesh: Any, least: int = 1) -> Any:
    """The layout of a weight: cut along its last axis that divides by the mesh's `model`, if it has `least` axes.

    Vectors that do not train are best whole: a layer that assigns to a running mean in parts would have what it
    measured cut as well, and a convolution before it cannot have that.
    """
    specs = [dtensor.UNSHARDED] * len(weight.shape)
    size = mesh.dim_size(MODEL)
    fit = [axis for axis, length in enumerate(weight.shape) if length % size == 0]
    if fit and size > 1 and len(specs) >= least and tf.as_dtype(weight.dtype).is_floating:
        specs[fit[-1]] = MODEL
    return dtensor.Layout(specs, mesh)


def _gathered(placed: Any) -> Tensor:
    """All of a weight on every device; where it is in parts, they are put together."""
    replicated = dtensor.Layout.replicated(placed.layout.mesh, len(placed.shape))
    return dtensor.relayout(placed.read_value(), replicated)


def _of_products(model: Any) -> set[int]:
    """The ids of the weights that each device can compute with in parts."""
    layers = [layer for layer in _layers(model) if isinstance(layer, PRODUCTS)]
    return {id(weight) for layer in layers for weight in layer.trainable_variables}


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, tf.keras.Model):
            yield from _layers(layer)


def _places(model: Any) -> list[tuple[Any, str, Any]]:
    """Where the layers of Keras 2 keep their weights: module, attribute and weight."""
    weights = {id(weight) for weight in model.variables}
    modules = (model, *model.submodules)
    return [(each, name, value) for each in modules for name, value in vars(each).items() if id(value) in weights]


def _unfused(model: Any) -> None:
    """Have BatchNormalization compute op by op; a mesh does not know the fused one."""
    for layer in _layers(model):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.fused = False
