"""What central training is, as values: what to train on what, how far it has come, and what came of it. No TensorFlow.

The rows of every global batch follow from the job alone, not from who computes them, so replicas and workers, however
many, take the same steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples, permutation

OPTIMIZERS = ("sgd", "momentum", "adam")
MOMENTUM = 0.9  # of the optimizer of that name


class Passed(NamedTuple):
    """How far training is: so many `step` of `steps` are done in `epoch`, which counts from 1.

    An epoch begins with one of these, at step 0 but where a backup was in the middle; `loss` is its mean, at its end.
    """

    epoch: int
    step: int
    steps: int
    loss: float | None = None


Tell = Callable[[Passed], None]


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be trained: the Keras model that `build` makes, on `examples`, `batch` in a step over all replicas.

    `build` is called in the scope of the strategy, in every process that takes part, and makes the same model there.
    In `folder` stand backups; a job that finds its own there goes on from them, and one with more `epochs` does too.
    """

    build: Callable[[], Any]
    examples: Examples
    folder: Path
    loss: str = "sparse_categorical_crossentropy"
    epochs: int = 10
    batch: int = 64
    optimizer: str = "momentum"
    learning_rate: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise SettingsError for what cannot be trained."""
        if self.epochs < 1:
            raise SettingsError(f"epochs must be at least 1, not {self.epochs}")
        if self.batch < 1:
            raise SettingsError(f"batch must be at least 1, not {self.batch}")
        if not self.learning_rate > 0:
            raise SettingsError(f"learning rate must be above 0, not {self.learning_rate:g}")
        if self.optimizer not in OPTIMIZERS:
            raise SettingsError(f"unknown optimizer {self.optimizer!r}; take {', '.join(OPTIMIZERS)}")

    @property
    def steps(self) -> int:
        """How many steps an epoch has; the last one may have fewer examples."""
        return -(-len(self.examples.x) // self.batch)

    def share(self, parts: int, whose: str = "replicas") -> int:
        """How many examples of a batch each of `parts` takes; raises SettingsError where that is no whole number."""
        if self.batch % parts:
            near = max(self.batch // parts, 1) * parts
            raise SettingsError(
                f"a batch of {self.batch} does not divide by {parts} {whose}; take one that does, such as {near}"
            )
        return self.batch // parts

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """The rows of the examples that the steps of `epoch` take, int64[steps, batch].

        What the last step lacks is filled up from the epoch's beginning, with examples that do not count: see `weight`.
        """
        order = permutation(len(self.examples.x), "training", self.seed, epoch)
        return np.resize(order, (self.steps, self.batch))

    @property
    def weight(self) -> NDArray[np.float32]:
        """How much each of `rows` counts, float32[steps, batch]: fillers nothing, others alike, a mean of 1 a step."""
        there = np.arange(self.steps * self.batch).reshape(self.steps, self.batch) < len(self.examples.x)
        found: NDArray[np.float32] = np.divide(there * self.batch, there.sum(1, keepdims=True), dtype=np.float32)
        return found

    @property
    def digest(self) -> str:
        """The name of the examples: the sha256 of their bytes, in hex."""
        found = hashlib.sha256()
        for values in self.examples:
            found.update(f"{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
        return found.hexdigest()

    def facts(self) -> dict[str, Any]:
        """What decides the steps of this job, whatever the number of epochs and whoever computes them."""
        names = ("loss", "batch", "optimizer", "learning_rate", "seed")
        return {name: getattr(self, name) for name in names} | {"data": self.digest}


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a job: `weights` as Keras's `set_weights` takes them, those that do not train among them.

    `losses` is the mean of each epoch that was trained now; `resumed` how many epochs a backup had; `strategy` what
    computed, in words, for the lineage of what comes of it.
    """

    weights: tuple[NDArray[Any], ...]
    losses: tuple[float, ...]
    resumed: int
    strategy: str
