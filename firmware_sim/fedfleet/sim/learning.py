"""How a run learns, by its engine: each is a way to start what is needed, and then to learn for all rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from fedfleet.cloud.federation import Evaluate, RoundRecord
from fedfleet.models.compiled import Compiled
from fedfleet.sim import engines
from fedfleet.sim.federate import federate
from fedfleet.sim.stage import Simulation, Stage
from fedfleet.sim.tff import engine as tff
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError

ENGINES = (*engines.ENGINES, tff.ENGINE)
Learn = Callable[[Compiled, Evaluate, list[RoundRecord]], Weights]


def check(wanted: Simulation) -> None:
    """Raise SettingsError for an engine that is not known, or that cannot do what is wanted."""
    if wanted.engine not in ENGINES:
        raise SettingsError(f"unknown engine {wanted.engine!r}; known: {', '.join(ENGINES)}")
    if wanted.engine == tff.ENGINE:
        tff.check(wanted)


@contextmanager
def learning(wanted: Simulation, stage: Stage) -> Iterator[tuple[Learn, str]]:
    """Start what the engine of `wanted` needs; it ends with the block. Gives how to learn, and the broker for people.

    The first takes the program, what scores weights, and a list that gains one entry a round; it returns the weights.
    """
    if wanted.engine == tff.ENGINE:
        with tff.learning(wanted, stage) as found:
            yield found
        return
    place = engines.Place(stage.fleet, wanted.devices, stage.folder, wanted.seed, wanted.faults)
    with engines.connected(wanted.engine, wanted.broker, place) as (drive, broker):
        yield partial(federate, wanted, stage, drive), broker
