"""One device of a gossiping fleet, in a process that the kernel ends together with the simulator."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

from fedfleet.edge.local import LocalTrainer
from fedfleet.edge.stopping import Stopping
from fedfleet.sim.board import leash
from fedfleet.sim.gossip.peer import Launch, Peer, status
from fedfleet.wire.bus import Bus, Will
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.record import build
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

LAUNCH = "launch.json"
TICK = 0.5


def gossip(folder: Path, stopping: Stopping) -> None:
    """Play all rounds of the launch in `folder`, or those until `stopping`. Raises FedfleetError."""
    launch = build(Launch, json.loads((folder / LAUNCH).read_bytes()), strict=True)
    will = Will(Topics(launch.fleet).status(launch.device), status("ready"), status("lost"))
    bus = MqttBus(launch.broker or Broker(), f"{launch.fleet}-{launch.device}", will)
    trainer = LocalTrainer(launch.device, folder / "state" / "examples")
    peer = Peer(launch, folder, bus, trainer)
    try:
        while not peer.done and not stopping.is_set():
            peer.step(TICK, stopping.is_set)
            if launch.dies and peer.round > launch.dies:
                _die(bus)
    finally:
        trainer.close()
        if not peer.done:  # the neighbours need not wait
            bus.publish(will.topic, will.death, retain=True)
        bus.close()


def _die(bus: Bus) -> None:
    """End as in a power cut, once what was shown is with the broker: deaths then give the same bits every time."""
    while bus.pending:
        bus.deliveries(TICK)
    os.kill(os.getpid(), signal.SIGKILL)


def main(parent: int, folder: Path) -> None:
    """Gossip as long as `parent` lives; exits with 2 and one line where that cannot go on."""
    stopping = Stopping()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    leash(parent)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        gossip(folder, stopping)
    except FedfleetError as error:
        logging.getLogger("fedfleet.gossip").error("%s", error)
        sys.exit(2)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
