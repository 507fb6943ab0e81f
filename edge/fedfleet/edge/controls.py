"""SCAFFOLD on the device (Karimireddy et al. 2020, algorithm 1, option II): how far its gradients are from the fleet's.

c is the server's control variate, which the task names; c_i is the device's own, kept like local weights are, in

control/<program digest>/<round>.weights  float32, little-endian, c_i as that round left it

Every step adds c - c_i to the gradient, and c_i becomes the mean gradient that there was: c_i - c + (x - y) / (K rate).
A round goes on from the newest c_i that the server's c has in it: what was contributed to a round that was abandoned,
or to a federation before this one, does not count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedfleet.wire.codecs import Weights


class Controls(NamedTuple):
    """The control variates of a round: the server's c and the device's c_i, float32[P]."""

    server: Weights
    own: Weights

    @property
    def correction(self) -> Weights:
        """What is added to every gradient."""
        return self.server - self.own

    def change(self, delta: Weights, steps: int, rate: float) -> Weights:
        """Return c_i+ - c_i after `steps` steps of `rate` that moved the weights by `delta` (algorithm 1, line 12)."""
        return -self.server - delta / np.float32(steps * rate)
