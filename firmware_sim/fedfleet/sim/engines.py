"""What drives a run: processes over a broker, all in this process over a loopback, or all of it in virtual time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.journal import Journal
from fedfleet.edge.local import LocalTrainer
from fedfleet.sim.brokers import running
from fedfleet.sim.fleet import Fleet, LoopbackFleet, ProcessFleet
from fedfleet.sim.virtual.cloud import Build
from fedfleet.sim.virtual.faults import parse
from fedfleet.sim.virtual.fleet import VirtualFleet
from fedfleet.sim.virtual.pool import Pool
from fedfleet.wire.bus import Bus
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.loopback import Hub
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

ENGINES = ("mqtt", "loopback", "virtual")
TICK = 0.05
GLANCE = 20  # virtual events between two looks at the aggregator
WEEK = 7 * 86400.0
Watch = Callable[[Aggregator, list[str]], None]
Drive = Callable[[Build, Watch], Weights]


@dataclass(frozen=True)
class Place:
    """Where a run takes place: the fleet's name, its size, the run's folder, and what goes wrong in virtual time.

    The devices `doomed` are killed when the round `half` is over.
    """

    fleet: str
    devices: int
    folder: Path
    seed: int = 0
    faults: str = "none"
    doomed: tuple[str, ...] = ()
    half: int = 0


@contextmanager
def connected(engine: str, broker: str, place: Place) -> Iterator[tuple[Drive, str]]:
    """What drives a run with this engine, and its broker for people; devices that can, start, and end with the block.

    A drive is given how to build the aggregator, and whom to show it and the devices that ended; it returns weights.
    """
    with ExitStack() as stack:
        if engine == "virtual":
            yield lambda build, watch: _virtual(place, build, watch), f"virtual time, faults: {place.faults}"
            return
        if engine == "loopback":
            hub, name = Hub(), "in memory"
            bus: Bus = hub.connect()
            fleet: Fleet = LoopbackFleet(place.folder / "devices", place.devices, place.fleet, hub, time.monotonic)
        else:
            where, name = stack.enter_context(running(broker, place.folder))
            bus = MqttBus(where, f"{place.fleet}-cloud")
            stack.callback(bus.close)
            fleet = ProcessFleet(place.folder / "devices", place.devices, place.fleet, where)
        stack.callback(fleet.close)
        tick = 0.0 if engine == "loopback" else TICK
        yield lambda build, watch: _real(place, (bus, fleet), tick, build, watch), name


def _real(place: Place, link: tuple[Bus, Fleet], tick: float, build: Build, watch: Watch) -> Weights:
    bus, fleet = link
    journal, doomed = Journal(place.folder / "cloud"), place.doomed
    try:
        aggregator = build(bus, journal, time.monotonic)
        while not aggregator.done:
            aggregator.step(tick)
            fleet.step()
            if doomed and aggregator.progress()[0] > place.half:
                fleet.kill(doomed)
                doomed = ()
            watch(aggregator, fleet.gone())
        aggregator.retire()
    finally:
        journal.close()
    return aggregator.weights


def _virtual(place: Place, build: Build, watch: Watch) -> Weights:
    pool = Pool()
    fleet = VirtualFleet(
        place.folder,
        place.devices,
        Topics(place.fleet),
        build,
        lambda device, examples: LocalTrainer(device, examples, pool.program),
        parse(place.faults),
        place.seed,
    )
    try:
        with _logged(place.folder / "virtual.log", fleet.clock):
            while not fleet.done:
                for _ in range(GLANCE):
                    if fleet.done or not fleet.clock.step():
                        break
                if fleet.cloud.aggregator:
                    watch(fleet.cloud.aggregator, [])
                    if fleet.clock() > fleet.cloud.began + WEEK:
                        raise SettingsError(f"nothing for a virtual week: {fleet.cloud.aggregator.waiting()}")
        assert fleet.cloud.aggregator is not None
        return fleet.cloud.aggregator.weights
    finally:
        fleet.close()


@contextmanager
def _logged(path: Path, clock: Callable[[], float]) -> Iterator[None]:
    """Have what the fleet says, its aggregator and its devices, written to `path` with virtual seconds."""

    def dated(record: logging.LogRecord) -> bool:
        record.at = clock()
        return True

    handler, logger = logging.FileHandler(path, delay=True), logging.getLogger("fedfleet")
    handler.addFilter(dated)
    handler.setFormatter(logging.Formatter("%(at).1f %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False  # a storm would bury the screen
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
        handler.close()
