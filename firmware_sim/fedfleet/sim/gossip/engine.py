"""The engine gossip: a process for each device and a broker between them, and nothing that combines.

What a device is told, it is told before the first round, as when it is flashed: the program, the weights that all begin
with, its neighbours. The simulator reads what each noted on its disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fedfleet.cloud.federation import Evaluate, RoundRecord
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.sim.federate import Learn, told
from fedfleet.sim.fleet import LOG, Processes, device_id
from fedfleet.sim.gossip.device import LAUNCH
from fedfleet.sim.gossip.graph import graph, row
from fedfleet.sim.gossip.peer import Launch
from fedfleet.sim.gossip.rounds import Notes
from fedfleet.sim.gossip.shared import ANNOUNCED, SLOTS
from fedfleet.sim.stage import Simulation, Stage
from fedfleet.wire import files
from fedfleet.wire.bus import Bus
from fedfleet.wire.codecs import PLAIN, Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Blob
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.record import plain
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TICK = 0.02


def check(wanted: Simulation) -> None:
    """Raise SettingsError for what gossip cannot do, before anything is started."""
    graph(wanted.topology, wanted.devices, wanted.seed)
    rounds, plan = wanted.rounds, wanted.plan
    for name, holds in {
        "a strategy: its rule is the mean with the neighbours": wanted.strategy == "fedavg",
        "a share below 1: all devices take part": rounds.share == 1,
        "a buffer: neighbours wait for each other": not rounds.buffer and not rounds.staleness,
        "a codec: models travel whole, as float32": plan.codec == PLAIN and not rounds.downlink,
        "a holdout: nobody gathers what devices find": not plan.holdout,
        "refining: there is no server to do it": not wanted.refine,
        "replicas: there is no server to combine": not wanted.combine.replicas,
    }.items():
        if not holds:
            raise SettingsError(f"the engine gossip takes no {name.removeprefix('a ')}")


@contextmanager
def gossiping(wanted: Simulation, stage: Stage) -> Iterator[tuple[Learn, str]]:
    """Run a broker while the block lasts, and give how to learn over it, and its name for people."""
    with running(wanted.broker, stage.folder) as (broker, name):
        bus = MqttBus(broker, f"{stage.fleet}-tidy")
        try:
            yield partial(_learn, wanted, stage, (broker, bus)), name
        finally:
            bus.close()


def launch(wanted: Simulation, fleet: str, compiled: Compiled, folder: Path, broker: Broker | None) -> list[str]:
    """Write what each device is told into its folder below `folder`, and return the devices."""
    wires, weights = graph(wanted.topology, wanted.devices, wanted.seed), compiled.shared.astype("<f4").tobytes()
    devices = [device_id(index) for index in range(wanted.devices)]
    for index, device in enumerate(devices):
        first = Launch(
            device=device,
            fleet=fleet,
            shares={devices[other]: share for other, share in row(wires, index).items()},
            rounds=wanted.rounds.total,
            seed=wanted.seed,
            deadline=wanted.rounds.deadline,
            plan=wanted.plan,
            program=Blob.of(compiled.program),
            weights=Blob.of(weights),
            dies=wanted.half if index in wanted.doomed else 0,
            broker=broker,
        )
        files.write(folder / device / "program.tflite", compiled.program)
        files.write(folder / device / "0.weights", weights)
        files.write(folder / device / LAUNCH, json.dumps(plain(first)).encode())
    return devices


def _learn(
    wanted: Simulation,
    stage: Stage,
    link: tuple[Broker, Bus],
    compiled: Compiled,
    scorer: Evaluate,
    records: list[RoundRecord],
) -> Weights:
    """Run all rounds and return the mean of the devices' models; `records` gains one entry a round."""
    broker, bus = link
    folder = stage.folder / "devices"
    devices = launch(wanted, stage.fleet, compiled, folder, broker)
    notes = Notes(folder, devices, scorer, stage.dataset.metric)
    fleet = Processes(folder, {device: ("fedfleet.sim.gossip.device", str(folder / device)) for device in devices})
    try:
        with told(stage, records) as tell:
            while notes.round <= wanted.rounds.total:
                _follow(notes, fleet, stage, tell)
    finally:
        fleet.close()
        _tidy(bus, Topics(stage.fleet), devices, Blob.of(compiled.shared.astype("<f4").tobytes()).chunks)
    return notes.weights


def _follow(notes: Notes, fleet: Processes, stage: Stage, tell: Callable[[RoundRecord], None]) -> None:
    ended = fleet.gone()
    record = notes.over(ended)
    if record is not None:
        tell(record)
        return
    there, every = notes.there(), fleet.pids()
    if len(ended) == len(every):
        raise SettingsError(f"all devices ended; {stage.folder}/devices/{ended[0]}/{LOG} says why")
    waiting = [device for device in every if device not in there and device not in ended]
    stage.screen.progress(notes.round, len(every), len(there), f"waiting for {', '.join(waiting[:6])}")
    time.sleep(TICK)


def _tidy(bus: Bus, topics: Topics, devices: list[str], chunks: int) -> None:
    """Clear what the devices left at a broker that may outlive the run."""
    for device in devices:
        for topic in [
            topics.status(device),
            *(topics.model(device, slot, part) for slot in range(SLOTS) for part in (ANNOUNCED, *range(chunks))),
        ]:
            bus.publish(topic, b"", retain=True)
