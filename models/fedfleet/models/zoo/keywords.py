"""Which word was said."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers
CHANNELS = 64


def keywords(classes: int = 12, *, seed: int = 0) -> Any:
    """DS-CNN small for 49 frames of 10 MFCC (49x10x1), 10 words, silence and unknown.

    Zhang et al. 2017 (Hello Edge, arXiv 1711.07128, section 3.5 and the hyperparameters of its appendix), with the 64
    channels and strides of MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597). Batch normalisation stands folded into
    the biases, as in a deployed model.
    """
    return sequential(
        seed,
        (49, 10, 1),
        layers.Conv2D(CHANNELS, (10, 4), strides=2, padding="same", activation="relu"),
        *(layer for _ in range(4) for layer in _separable()),
        layers.GlobalAveragePooling2D(),
        layers.Dense(classes, activation="softmax"),
        kernels=tf.keras.initializers.HeUniform,
    )


def _separable() -> tuple[Any, Any]:
    """A depthwise convolution, and one of single points."""
    return (
        layers.DepthwiseConv2D(3, padding="same", activation="relu"),
        layers.Conv2D(CHANNELS, 1, activation="relu"),
    )
