"""Long vectors, worked at by several threads at once: NumPy lets go of the interpreter's lock while it computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Found = TypeVar("Found")

LEAST = 2**18  # values for a thread; with fewer, the threads wait for each other longer than they save
THREADS = min(4, os.cpu_count() or 1)  # the memory does not keep up with many more


def spread(work: Callable[[slice], Found], size: int) -> list[Found]:
    """Return what `work` returns for each of the pieces of `size` values, in order; it is called by a thread for each.

    Where it raises an error, the other pieces may be done or not.
    """
    first, *others = pieces(size)
    later = [_pool().submit(work, piece) for piece in others]
    return [work(first), *(each.result() for each in later)]


def pieces(size: int) -> list[slice]:
    """Return slices that make up `size` values, one for each thread that is worth it."""
    count = max(1, min(THREADS, size // LEAST))
    return [slice(size * i // count, size * (i + 1) // count) for i in range(count)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "cores")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads stay with the parent
