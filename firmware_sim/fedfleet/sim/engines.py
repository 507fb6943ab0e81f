"""What drives a run: processes or containers over a broker, all in this process over a loopback, or in virtual time."""

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
from fedfleet.sim.docker.fleet import DockerFleet
from fedfleet.sim.fleet import Fleet, FrailFleet, LoopbackFleet, ProcessFleet, device_id
from fedfleet.sim.mishaps import Mishap, Tell, quiet, striking
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

ENGINES = ("mqtt", "loopback", "virtual", "docker")
TICK = 0.05
GLANCE = 20  # virtual events between two looks at the aggregator
WEEK = 7 * 86400.0
Watch = Callable[[Aggregator, list[str]], None]
Drive = Callable[[Build, Watch], Weights]


@dataclass(frozen=True)
class Place:
    """Where a run takes place: the fleet's name, its size, the run's folder, and what goes wrong in virtual time.

    The devices `doomed` are killed when the round `half` is over. Of each of `mishaps` that begins or ends, `tell` is
    told the round, the seconds since the first round began, and what was done; `say` is for people.
    """

    fleet: str
    devices: int
    folder: Path
    seed: int = 0
    faults: str = "none"
    doomed: tuple[str, ...] = ()
    half: int = 0
    mishaps: tuple[Mishap, ...] = ()
    tell: Tell = quiet
    say: Callable[[str], None] = lambda text: None


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
            stack.callback(fleet.close)
            yield lambda build, watch: _real(place, (bus, fleet), build, watch), name
            return
        bus, frail, name = _frail(engine, broker, place, stack)
        names = tuple(map(device_id, range(place.devices)))
        strike = striking(place.mishaps, frail, names, place.seed, place.tell)
        yield lambda build, watch: _real(place, (bus, frail), build, watch, TICK, strike), name


def _frail(engine: str, broker: str, place: Place, stack: ExitStack) -> tuple[Bus, FrailFleet, str]:
    """Start the broker and the devices of an engine that can be hurt; they end with `stack`."""
    devices = place.folder / "devices"
    if engine == "docker":
        contained = DockerFleet(devices, place.devices, place.fleet, place.say, place.mishaps)
        stack.callback(contained.close)
        bus = MqttBus(contained.broker, f"{place.fleet}-cloud")
        stack.callback(bus.close)
        return bus, contained, contained.name
    where, name = stack.enter_context(running(broker, place.folder))
    bus = MqttBus(where, f"{place.fleet}-cloud")
    stack.callback(bus.close)
    fleet = ProcessFleet(devices, place.devices, place.fleet, where)
    stack.callback(fleet.close)
    return bus, fleet, name


def _real(
    place: Place,
    link: tuple[Bus, Fleet],
    build: Build,
    watch: Watch,
    tick: float = 0.0,
    strike: Callable[[int], None] = lambda round_: None,
) -> Weights:
    bus, fleet = link
    journal, doomed = Journal(place.folder / "cloud"), place.doomed
    try:
        aggregator = build(bus, journal, time.monotonic)
        while not aggregator.done:
            aggregator.step(tick)
            fleet.step()
            strike(aggregator.progress()[0])
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
