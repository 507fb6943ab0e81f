"""How every model of the zoo gets its initial weights: from one seed, whatever was drawn before."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

initializers = tf.keras.initializers


def sequential(seed: int, shape: tuple[int, ...], *stack: Any, kernels: Any = initializers.GlorotUniform) -> Any:
    """The stack as a Sequential model for inputs of `shape`, its initial weights drawn from `seed` alone.

    `kernels` is the initialiser's class; HeUniform keeps signals at their size through many rectified layers.
    """
    for i, layer in enumerate(stack):
        _sow(getattr(layer, "cell", layer), seed * 1000 + i, kernels)
    return tf.keras.Sequential([tf.keras.Input(shape), *stack])


def _sow(layer: Any, seed: int, kernels: Any) -> None:
    """Gives the layer initialisers of its own, which leave the program's global random state alone."""
    if hasattr(layer, "depthwise_initializer"):
        # each output sees the taps of one channel only: He et al. 2015, eq. 10; Glorot would count all channels
        limit = float(np.sqrt(6 / np.prod(layer.kernel_size)))
        layer.depthwise_initializer = initializers.RandomUniform(-limit, limit, seed=seed)
    elif hasattr(layer, "kernel_initializer"):
        layer.kernel_initializer = kernels(seed=seed)
    if hasattr(layer, "recurrent_initializer"):
        layer.recurrent_initializer = initializers.Orthogonal(seed=seed)
