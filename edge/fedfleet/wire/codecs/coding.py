"""The vocabulary of codecs: a flat vector of weights, and the two halves of a coding, which stand in one file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]


class Coding(NamedTuple):
    """A vector as bytes, and bytes as a vector again.

    `size(n)` is how many bytes n values take, always. `shrink(values, random)` rounds by what it draws from `random`.
    `grow(data, n)` returns float32[n]; its caller has checked that `data` is of that size. Raises FrameError.
    """

    size: Callable[[int], int]
    shrink: Callable[[Weights, np.random.PCG64], bytes]
    grow: Callable[[bytes, int], Weights]
