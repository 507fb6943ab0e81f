"""Error feedback: what a codec loses of a round's difference is added to the next that this device takes part in.

Seide et al. 2014; Karimireddy et al. 2019, algorithm 2. It is kept like local weights are, in

residual/<program digest>/<round>.weights  float32, little-endian, what that round's update left out

Kept for every round that was trained, whatever becomes of the update. One that is refused or superseded is lost, as it
would be without a codec; to add it to the next would count it twice where only its receipt was lost, which no device
can tell.
"""

from __future__ import annotations

import numpy as np

from fedfleet.edge.private import Private
from fedfleet.wire.codecs import Weights, grow, shrink
from fedfleet.wire.errors import ProgramError

FARTHEST = 2.0**32  # no sum in the cloud takes a weight that moves by so much


def encoded(name: str, delta: Weights, kept: Private, round_: int, seed: int) -> bytes:
    """Return `delta`, and what rounds before `round_` left out, as codec `name` has it; the rest is kept.

    `delta` is used up. Raises ProgramError where it is too large to count, StoreError.
    """
    carried = kept.before(round_)
    if had := carried.any():
        delta += carried
    if not np.abs(delta).max() < FARTHEST:
        raise ProgramError(f"training diverged in round {round_}: weights move by 2^32; lower the learning rate")
    data = shrink(name, delta, seed)
    delta -= grow(name, data, delta.size)
    if had or delta.any():
        kept.keep(round_, delta)
    return data
