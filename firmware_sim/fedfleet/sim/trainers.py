"""A trainer of zero cost, for trying protocols with fleets larger than this machine could train."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedfleet.edge.local import batch_seed, task_weights
from fedfleet.edge.trainer import Stop
from fedfleet.wire.codecs import shrink
from fedfleet.wire.messages import Task, Update

METRICS = {"loss": 1.0, "steps": 1.0, "before": 1.0}


class SeededTrainer:
    """Moves the weights by seeded noise, different for every device and round; asks `stop` once."""

    def __init__(self, device: str, examples: int = 10) -> None:
        """Pretend that `device` holds so many examples."""
        self._device = device
        self._examples = examples

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Return the update that this device always makes in this round."""
        if stop():
            return None
        start, seed = task_weights(weights, task), batch_seed(task, self._device)
        size = start.size * (2 if task.control else 1)
        noise = np.random.PCG64(seed).random_raw(size)
        delta = ((noise >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1) * np.float32(0.01)
        data = shrink(task.plan.codec, delta, seed)
        return Update(task.round, self._device, self._examples, task.plan.codec, data, METRICS)

    def close(self) -> None:
        """Nothing was started."""
