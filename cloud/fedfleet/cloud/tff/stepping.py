"""The server's step by an optimizer of TensorFlow Federated, whose state is in our moments."""

from __future__ import annotations

from weakref import WeakValueDictionary

import numpy as np

from fedfleet.cloud.servers import Difference, Moments, ServerOptimizer
from fedfleet.cloud.tff.child import Child
from fedfleet.cloud.tff.installed import needed
from fedfleet.cloud.tff.pipe import Array
from fedfleet.wire.codecs import Weights

MODULE = "fedfleet.cloud.tff.worker"
PATIENCE = 600.0  # seconds that a round's answer may take
STARTS: dict[str, tuple[float, ...]] = {
    "tff.sgdm": (),
    "tff.adagrad": (0.1,),
    "tff.adam": (0.0, 0.0, 0.0),
    "tff.adamw": (0.0, 0.0, 0.0),
    "tff.rmsprop": (0.0,),
    "tff.yogi": (0.0, 0.0, 1e-6),
}
"""By algorithm, what each row of the moments starts from: the count of steps, and the vectors of TFF's state."""
_running: WeakValueDictionary[str, Child] = WeakValueDictionary()


def shared() -> Child:
    """Return the process of all strategies that need one; it ends with the last of them."""
    found = _running.get(MODULE)
    if found is None:
        found = _running[MODULE] = Child(MODULE)
    return found


def end() -> None:
    """End the process of all strategies now, if there is one, and what TFF has started."""
    if (found := _running.get(MODULE)) is not None:
        found.close()


def stepping(algorithm: str, rate: float) -> ServerOptimizer:
    """Return the server's step by TFF's optimizer of that name, with its defaults; SettingsError where TFF is not."""
    needed(f"strategy {algorithm}")
    child, request = shared(), {"kind": "step", "algorithm": algorithm, "rate": rate}

    def step(weights: Weights, difference: Difference, moments: Moments) -> tuple[Weights, Moments]:
        arrays: list[Array] = [weights, difference.astype(np.float32), moments]
        _, (after, kept) = child.ask(algorithm, PATIENCE, request, arrays, len(arrays))
        return after.astype(np.float32), kept

    return ServerOptimizer(STARTS[algorithm], step)
