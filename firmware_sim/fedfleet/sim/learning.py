"""How a run learns, by its engine: each is a way to start what is needed, and then to learn for all rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from fedfleet.cloud.combine import combined
from fedfleet.cloud.strategies import strategy
from fedfleet.models.quiet import quiet
from fedfleet.sim import engines, refining
from fedfleet.sim.docker import client as docker
from fedfleet.sim.federate import Learn, federate
from fedfleet.sim.fleet import device_id
from fedfleet.sim.gossip import engine as gossip
from fedfleet.sim.mishaps import check as able
from fedfleet.sim.mishaps import parse
from fedfleet.sim.record import GOSSIP
from fedfleet.sim.stage import Simulation, Stage
from fedfleet.sim.tff import engine as tff
from fedfleet.wire.errors import SettingsError

ENGINES = (*engines.ENGINES, GOSSIP, tff.ENGINE)


def check(wanted: Simulation) -> None:
    """Raise SettingsError for an engine that is not known, or that cannot do what is wanted."""
    if wanted.engine not in ENGINES:
        raise SettingsError(f"unknown engine {wanted.engine!r}; known: {', '.join(ENGINES)}")
    able(wanted.engine, map(parse, wanted.mishaps))
    if wanted.engine == "docker":
        if wanted.broker != "auto":
            raise SettingsError("the engine docker has a broker of its own, in a container: leave out --broker")
        docker.require()
    if wanted.engine == GOSSIP:
        gossip.check(wanted)
    if wanted.engine == tff.ENGINE:
        tff.check(wanted)


@contextmanager
def learning(wanted: Simulation, stage: Stage) -> Iterator[tuple[Learn, str]]:
    """Start what the engine of `wanted` needs; it ends with the block. Gives how to learn, and the broker for people.

    The first takes the program, what scores weights, and a list that gains one entry a round; it returns the weights.
    """
    if wanted.engine == GOSSIP:
        with gossip.gossiping(wanted, stage) as found:
            yield found
        return
    if wanted.engine == tff.ENGINE:
        with tff.learning(wanted, stage) as found:
            yield found
        return
    place = engines.Place(
        stage.fleet,
        wanted.devices,
        stage.folder,
        wanted.seed,
        wanted.faults,
        tuple(map(device_id, wanted.doomed)),
        wanted.half,
        tuple(map(parse, wanted.mishaps)),
        stage.mishap,
        stage.screen.say,
    )
    with engines.connected(wanted.engine, wanted.broker, place) as (drive, broker):
        with quiet(stage.folder / "tensorflow.log"):  # before TensorFlow computes anything: see `combined`
            refining.reserve(wanted)
            rule = combined(strategy(wanted.strategy), wanted.combine.replicas)
        yield partial(federate, wanted, stage, drive, rule), broker
