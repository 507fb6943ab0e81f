"""What rules are written in, so that any engine works them out to the same bits: NumPy here, others elsewhere.

Each of these is exact or rounds once; where many numbers are added, the order is part of what it means. A kernel takes
them, float32[n, some], what all updates say of some weights, and further arrays. It may add, subtract, multiply, divide
by one of those arrays, and slice. No zero has a sign, and no
number is denormal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = Any  # of the engine
Block = NDArray[np.float32]


class Ops(NamedTuple):
    """What an engine has to offer.

    `wide` makes float64 of float32; `sort`, `order` (a stable argsort), `rows` and `along` (take_along_axis) go along
    the first axis. `total` adds along an axis: the second half onto the first, until one is left; the middle one of an
    odd number stays for the next pass. `apart` returns the squared distances between rows, summed up by `total`.
    """

    wide: Callable[[Array], Array]
    sort: Callable[[Array], Array]
    order: Callable[[Array], Array]
    rows: Callable[[Array, Array], Array]
    along: Callable[[Array, Array], Array]
    total: Callable[[Array, int], Array]
    apart: Callable[[Array], Array]


Kernel = Callable[..., Array]
Engine = Callable[..., Iterator[Any]]
"""Called with a kernel, blocks, further arrays, and whole numbers by name, by which slices are cut; yields what the
kernel makes of each block, in their order. Who works out a kernel may keep it by its name: kernels are no closures."""


def alone(kernel: Kernel, blocks: Iterable[Block], *more: NDArray[Any], **sizes: int) -> Iterator[Any]:
    """Work through blocks in this process: the engine of NumPy."""
    return (kernel(NUMPY, block, *more, **sizes) for block in blocks)


def _total(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    left = np.moveaxis(values, axis, 0)
    if (size := len(left)) > 1:
        rest, left = left[(size + 1) // 2 :], left[: (size + 1) // 2].copy(order="K")
        left[: len(rest)] += rest
    while (size := len(left)) > 1:
        half = (size + 1) // 2
        left[: size - half] += left[half:]
        left = left[:half]
    return np.asarray(left[0])


def _apart(block: Block) -> NDArray[np.float64]:
    wide, found = block.astype(np.float64), np.zeros((len(block), len(block)))
    for i in range(len(block) - 1):
        found[i, i + 1 :] = _total(np.square(wide[i + 1 :] - wide[i]), 1)
    return found + found.T


NUMPY = Ops(
    wide=lambda values: values.astype(np.float64),
    sort=lambda values: np.sort(values, axis=0),
    order=lambda values: np.argsort(values, axis=0, kind="stable"),
    rows=lambda values, index: values[index],
    along=lambda values, index: np.take_along_axis(values, index, axis=0),
    total=_total,
    apart=_apart,
)
