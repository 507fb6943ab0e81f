"""Dropout with masks that follow from a seed: the same on every board, with every runtime.

LiteRT's own RANDOM_UNIFORM is no use here: it keeps its state where `set` cannot reach it, so that a round could not
be trained again. The generator below is whole numbers modulo a prime P: the cube is a permutation of them, since 3 does
not divide P - 1, and no product of two of them leaves int32. Rows and columns of a mask are enciphered apart, by adding
keys and taking cubes in turn (the idea of MiMC: Albrecht et al. 2016), and meet in a product. It is good for dropping
units, and for nothing that has to be secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedfleet.models.gradient import custom_gradient
from fedfleet.models.trace import Node

Tensor = Any
P = 46337
# what tells the four streams of a mask apart; no two calls of a layer have the same beginning
STREAMS = (1, 11_587, 23_173, 34_759)
STRIDE = 7919


def mask(seed: Tensor, number: int, rows: int, columns: int, rate: float) -> Tensor:
    """0 with probability `rate`, else 1 / (1 - rate): float32[rows, columns], for seed int32[1] from 0."""
    keep = 1.0 - rate
    kept = tf.cast(words(seed, number, rows, columns) < round(keep * P), tf.float32)
    return kept * (1.0 / keep if keep else 0.0)


def words(seed: Any, number: int, rows: int, columns: int) -> Any:
    """Numbers from 0 to P, exclusive, [rows, columns]; of tensors or arrays, whichever `seed` [1] is."""
    keys = [_cipher((number * STRIDE + stream) % P, (seed % P, seed // P % P, stream)) for stream in STREAMS]
    line, place = np.arange(rows, dtype=np.int32)[:, None], np.arange(columns, dtype=np.int32)[None, :]
    factor, offset = (_stream(line, keys[i], keys[i + 1]) for i in (0, 1))
    across, along = (_stream(place, keys[i], keys[i + 1]) for i in (2, 0))
    return (_cube((factor * across + offset) % P) + along) % P


def _stream(index: Any, *keys: Any) -> Any:
    """A number for each index, by two keys."""
    return _cipher(index % P, (keys[0], index // P, keys[1], keys[0]))


def _cipher(x: Any, keys: Sequence[Any]) -> Any:
    for key in keys:
        x = _cube((x + key) % P)
    return x


def _cube(x: Any) -> Any:
    return x * x % P * x % P


def _dropout(node: Node, x: Tensor, seed: Tensor) -> Tensor:
    """x times its mask."""
    shape = [1 if axis in node.attrs["repeats"] else int(n) for axis, n in enumerate(x.shape)]
    table = mask(seed, node.attrs["number"], shape[0], int(np.prod(shape[1:])), node.attrs["rate"])
    scale = tf.reshape(table, shape)

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        return x * scale, lambda g: g * scale

    return apply(x)


DROPOUT: Mapping[str, Callable[..., Tensor]] = {"Dropout": _dropout}
