"""A small example store whose examples tell which they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedfleet.edge.data import Store
from fedfleet.wire.examples import Examples

RECORD = 2 * 3 * 4 + 4 + 4
HEADER = 64


def numbered(start: int, stop: int) -> Examples:
    """Examples that tell which they are: number n has x full of n and label n."""
    n = np.arange(start, stop)
    return Examples(np.repeat(n, 6).reshape(-1, 2, 3).astype(np.float32), n.astype(np.int32))


def held(store: Store) -> list[int]:
    """The numbers of the examples in a store, once it is sure that x and y still belong together."""
    if len(store) == 0:
        return []
    x, y = store.arrays()
    assert (x == y[:, None, None]).all()
    return y.tolist()  # type: ignore[no-any-return]


def small(folder: Path, max_bytes: int = 2**20, records: int = 5) -> Store:
    return Store.open(folder, max_bytes, HEADER + records * RECORD)


def files(folder: Path, kind: str = "segment") -> list[Path]:
    return sorted(folder.glob(f"*.{kind}"))
