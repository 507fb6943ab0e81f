"""Versions of a model scored again, on data of one's choice, several at once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import local
from typing import NamedTuple

from fedfleet.cloud import registry
from fedfleet.cloud.combine import ALL, pooled
from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.registry import Version
from fedfleet.models.compiled import Compiled
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples

Way = Callable[[Compiled, Examples, Iterable[Weights]], Iterable[dict[str, float]]]


class Scored(NamedTuple):
    """A version with its scores, None for one that is no number."""

    version: Version
    scores: dict[str, float | None]


def scored(
    folder: Path, which: Sequence[str], examples: Examples, model: str = "", replicas: int = ALL
) -> list[Scored]:
    """Score the versions that `which` names, or all that are kept in the state `folder`; oldest first.

    With `model`, as FILE.py:FUNCTION, by its forward on so many replicas, ALL for all GPUs; without, by the device
    programs that the folder holds, on this machine's cores. Raises FedfleetError for what the owner can mend.
    """
    chosen, way = _chosen(folder, which), _way(model, replicas)
    found: dict[int, dict[str, float]] = {}
    for program in dict.fromkeys(version.program for version in chosen):
        group = [version for version in chosen if version.program == program]
        weights = (registry.exported(folder, version).weights for version in group)
        scores = way(registry.exported(folder, group[0]), examples, weights)
        found |= {version.round: each for version, each in zip(group, scores, strict=True)}
    return [Scored(version, _finite(found[version.round])) for version in chosen]


def _chosen(folder: Path, which: Sequence[str]) -> list[Version]:
    among = registry.versions(folder)
    rounds = {registry.find(among, name).round for name in which}
    found = [version for version in among if (version.round in rounds if which else version.kept)]
    if not found:
        raise SettingsError(f"{folder} keeps no model yet: the first one comes with the first round that closes")
    return found


def _way(model: str, replicas: int) -> Way:
    if not model and replicas != ALL:
        raise SettingsError("replicas run a Keras model: name it with --model FILE.py:FUNCTION")
    if replicas == 0 or replicas < ALL:
        raise SettingsError(f"replicas must be a number of devices, or {ALL} for all GPUs")
    if not model:
        return _on_cores
    pool = pooled(replicas)  # before TensorFlow computes anything
    from fedfleet.cloud.combine import forward

    return partial(forward.scores, pool, model)


def _on_cores(compiled: Compiled, examples: Examples, versions: Iterable[Weights]) -> Iterator[dict[str, float]]:
    """Each core has a runtime of its own; the runtime works without Python's lock."""
    mine = local()

    def one(weights: Weights) -> dict[str, float]:
        if not hasattr(mine, "evaluate"):
            mine.evaluate = evaluator(compiled, examples)
        found: dict[str, float] = mine.evaluate(weights)
        return found

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(one, versions)


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}
