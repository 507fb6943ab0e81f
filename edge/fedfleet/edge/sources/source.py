"""What the collector asks of a source."""

from __future__ import annotations

from typing import Protocol

from fedfleet.edge.data import Store


class Source(Protocol):
    """Where examples come from."""

    def poll(self, store: Store) -> int:
        """Append what has come since the last call, without waiting for more; how many examples that were.

        Raises StoreError or BusDown, after which the next call goes on where this one could not, and DataError for
        what cannot be trained on and is dropped.
        """
