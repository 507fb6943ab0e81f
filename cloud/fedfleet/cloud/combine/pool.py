"""The replicas of a strategy at work: folding updates in fixed point, and the kernels of rules. TensorFlow is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfleet.cloud.combine.held import Held, values
from fedfleet.cloud.combine.kernels import OPS
from fedfleet.cloud.combine.units import UNITS
from fedfleet.cloud.rules.ops import Block, Kernel
from fedfleet.wire.errors import StoreError


class Replicas:
    """The replicas of a MirroredStrategy. What they are asked for is traced once for each kind and size."""

    def __init__(self, strategy: Any) -> None:
        self.replicas = int(strategy.num_replicas_in_sync)
        self.strategy = strategy
        self._steps: dict[str, Any] = {}
        self._works: dict[Any, Any] = {}
        self._rows = 0  # of the blocks that `_works` were traced for: of another number of updates they go
        # so that TensorFlow and XLA prepare themselves, and say what they have to say, here
        self.joined(self.fold(self.zeros(1), [(values(np.zeros(1, np.float32)), 1)] * self.replicas))

    def zeros(self, parameters: int) -> Any:
        """Return a sum of nothing, int64[P] on each replica; raises StoreError where one has no room."""
        with _room():
            return self._dealt([np.zeros(parameters, np.int64)] * self.replicas)

    def fold(self, total: Any, group: list[tuple[Held, int]]) -> Any:
        """Return `total` with a group added to it; raises StoreError where a replica has no room."""
        with _room():
            return self.step(group[0][0].kind)(total, *self.dealt(group))

    def step(self, kind: str) -> Any:
        """Return what adds updates of a kind, dealt out, to a sum."""
        return self._steps.setdefault(kind, _folding(self.strategy, kind))

    def dealt(self, group: list[tuple[Held, int]]) -> tuple[Any, Any]:
        """Return how often each of a group counts, and its arrays, on the replicas in turns."""
        shares = [group[i :: self.replicas] for i in range(self.replicas)]
        times = self._dealt([np.array([times for _, times in share], np.int64) for share in shares])
        return times, self._dealt([[held.arrays for held, _ in share] for share in shares])

    def joined(self, total: Any) -> NDArray[np.int64]:
        """Return all parts of a sum together, int64[P]."""
        with _room():
            return np.array(self.strategy.reduce(tf.distribute.ReduceOp.SUM, total, axis=None))

    def engine(self, kernel: Kernel, blocks: Iterable[Block], *more: NDArray[Any], **sizes: int) -> Iterator[Any]:
        """Yield what `kernel` makes of each block, of `more` and with `sizes`; each replica takes a block at a time."""
        rest = tuple(map(tf.constant, more))
        for group in _groups(blocks, self.replicas):
            full = [*group, *([group[-1]] * (self.replicas - len(group)))]
            with _room():
                work = self._work(kernel, len(full[0]), sizes)
                found = self.strategy.experimental_local_results(work(self._dealt(full), rest))
            yield from (tf.nest.map_structure(np.array, each) for each in found[: len(group)])

    def _work(self, kernel: Kernel, rows: int, sizes: Mapping[str, int]) -> Any:
        if rows != self._rows:
            self._works.clear()
            self._rows = rows
        return self._works.setdefault((kernel, *sizes.items()), _working(self.strategy, partial(kernel, OPS, **sizes)))

    def _dealt(self, shares: Sequence[Any]) -> Any:
        """Give each replica one of `shares`, arrays or lists of them, on its own device."""
        devices = self.strategy.extended.worker_devices

        def one(context: Any) -> Any:
            with tf.device(devices[context.replica_id_in_sync_group]):
                return tf.nest.map_structure(tf.constant, shares[context.replica_id_in_sync_group])

        return self.strategy.experimental_distribute_values_from_function(one)


def _folding(strategy: Any, kind: str) -> Any:
    """What adds updates of a kind to a sum, on all replicas at once: one pass over the sum, whatever their number."""

    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def fold(total: Any, times: Any, updates: Any) -> Any:
        for number, arrays in enumerate(updates):
            total += UNITS[kind](total.shape[0], *arrays) * times[number]
        return total

    return tf.function(lambda *dealt: strategy.run(fold, dealt), autograph=False)


def _working(strategy: Any, work: Callable[..., Any]) -> Any:
    """What runs a kernel on all replicas. No XLA here, nor a constant divisor: both round otherwise than the ops do."""
    return tf.function(lambda block, more: strategy.run(work, (block, *more)), autograph=False)


def _groups(blocks: Iterable[Block], size: int) -> Iterator[list[Block]]:
    left = iter(blocks)
    while group := list(islice(left, size)):
        yield group


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise StoreError(
            "a replica has too little memory for it; do without replicas, or make the model smaller"
        ) from None
