"""What a backup holds where the weights themselves lie on several devices or machines: copies in this host's memory.

TensorFlow would have every parameter server write its own share to its own disk, which then all would have to share.
TensorFlow is loaded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Arrays = Sequence[NDArray[Any]]


class Copies(tf.Module):  # type: ignore[misc]
    """So many epochs are done, and these are the values after them; a part for `Backups`."""

    def __init__(self, values: Arrays) -> None:
        super().__init__()
        with tf.device("CPU:0"):
            self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.states = [tf.Variable(each, trainable=False) for each in values]

    def note(self, epoch: int, values: Arrays) -> None:
        """Take over the values after so many epochs."""
        self.epoch.assign(epoch)
        for state, value in zip(self.states, values):
            state.assign(value)

    def values(self) -> list[NDArray[Any]]:
        """Return the values."""
        return [np.asarray(state.numpy()) for state in self.states]
