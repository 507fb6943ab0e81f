"""A classifier of photos that trains only its head, on a backbone that stays as it is."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fedfleet.models.zoo.seeded import sequential

layers = tf.keras.layers
# channels and stride of each depthwise-separable block at width 1: Howard et al. 2017, table 1
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
WIDTH = 0.25


def photos(classes: int = 2, *, backbone: Any = None, seed: int = 0) -> Any:
    """Photos of 96x96x3 scaled to -1..1: a frozen backbone, its mean features, and one dense layer that trains.

    `backbone` is a Keras model of yours, from images to features [rows, columns, channels]; it is frozen here. Without
    one, `mobile` is taken, whose random weights are good for measuring, not for seeing. Task and size: the visual wake
    words of MLPerf Tiny (Banbury et al. 2021, arXiv 2106.07597).
    """
    body = mobile(seed=seed) if backbone is None else backbone
    body.trainable = False
    head = layers.Dense(classes, activation="softmax", name="head")
    return sequential(seed, tuple(body.inputs[0].shape[1:]), body, layers.GlobalAveragePooling2D(), head)


def mobile(*, seed: int = 0) -> Any:
    """The body of MobileNet at width 0.25 (Howard et al. 2017, arXiv 1704.04861, table 1 and section 3.3): 3x3x256.

    Batch normalisation stands folded into the biases, as in a deployed model.
    """
    first = layers.Conv2D(int(32 * WIDTH), 3, strides=2, padding="same", activation="relu6")
    blocks = [layer for channels, stride in BLOCKS for layer in _separable(int(channels * WIDTH), stride)]
    return sequential(seed, (96, 96, 3), first, *blocks, kernels=tf.keras.initializers.HeUniform)


def _separable(channels: int, stride: int) -> tuple[Any, Any]:
    """A depthwise convolution, and one of single points."""
    return (
        layers.DepthwiseConv2D(3, strides=stride, padding="same", activation="relu6"),
        layers.Conv2D(channels, 1, activation="relu6"),
    )
