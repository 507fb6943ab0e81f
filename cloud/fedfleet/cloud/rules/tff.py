"""Aggregation processes of TensorFlow Federated: what tff.aggregators and tff.learning have, or the user's own.

All updates of the round go to a process of their own, in the order of their digests, with their examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.cloud.rules.rows import Matrix, Rows
from fedfleet.cloud.rules.rule import Memory, Rule
from fedfleet.cloud.servers import Difference, Moments
from fedfleet.cloud.sums import Aggregate
from fedfleet.cloud.tff.child import Child
from fedfleet.cloud.tff.factory import factory
from fedfleet.cloud.tff.installed import needed
from fedfleet.cloud.tff.packing import rows
from fedfleet.cloud.tff.pipe import Array
from fedfleet.cloud.tff.stepping import PATIENCE, shared


def tff(text: str, base: Path = Path()) -> Rule:
    """Return the rule `tff:FACTORY`, a file of the user's being relative to `base`; raises SettingsError."""
    wanted = factory(text.partition(":")[2], base)
    needed(f"strategy {text[:64]}")
    child, request = shared(), asdict(wanted)

    def start(parameters: int) -> Moments:
        _, (state,) = child.ask(text, PATIENCE, {**request, "kind": "begin", "parameters": parameters})
        return rows(state, parameters)

    def value(found: Aggregate, moments: Moments) -> tuple[Difference, Moments]:
        assert isinstance(found, Rows)
        return _combined(child, text, request, found, moments)

    def alone(found: Rows) -> Matrix:
        return value(found, start(found.parameters))[0]

    return Rule(partial(Rows, alone), 1, Memory(start, value))


def _combined(
    child: Child, text: str, request: dict[str, Any], found: Rows, moments: Moments
) -> tuple[Difference, Moments]:
    """Have `child` combine what is in `found`; what TFF combines are gradients, which point the other way."""

    def arrays() -> Iterator[Array]:
        yield moments.reshape(-1)
        yield np.array(found.examples(), np.float64)
        for row in found.rows():
            yield (-row).astype("<f4")

    asked = {**request, "kind": "combine", "parameters": found.parameters}
    _, (state, combined) = child.ask(text, PATIENCE, asked, arrays(), len(found) + 2)
    return -combined.astype(np.float64), rows(state, found.parameters)
