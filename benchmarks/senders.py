"""Devices that have nothing to do but send: `python senders.py PORT DEVICES BYTES FOLDER [flood]`.

Each holds an update of BYTES and hands it over as the agent does, when it is asked for; with `flood` all publish all
parts of theirs at once, which is what the broker alone can carry. One process, one connection a device.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from fedfleet.edge.spool import Spool
from fedfleet.edge.uploads import Uploader
from fedfleet.wire.bus import Will
from fedfleet.wire.chunks import split
from fedfleet.wire.messages import Receipt, Status, Task, Update, decode, encode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TOPICS = Topics("bench")


def update(device: str, size: int) -> Update:
    """An update of `size` bytes whose floats are zero, so that the sum takes it."""
    return Update(1, device, random.Random(device).randint(1, 100), "float32", bytes(size))


def connect(device: str, broker: Broker) -> MqttBus:
    """A device's bus, with what it says of itself."""
    said = encode(Status("ready", 1))
    return MqttBus(broker, device, Will(TOPICS.status(device), said, said))


def flood(buses: dict[str, MqttBus], size: int) -> None:
    """Publish all parts of all updates."""
    for device, bus in buses.items():
        for frame in split(update(device, size))[1:]:
            bus.publish(TOPICS.update(device), frame)
            while bus.pending > 16:
                time.sleep(0.001)
    while any(bus.pending for bus in buses.values()):
        time.sleep(0.01)


def serve(buses: dict[str, MqttBus], size: int, folder: Path) -> None:
    """Offer the updates once there is a task, and send what is asked for until all are counted."""
    spools, uploaders = {}, {}
    for device, bus in buses.items():
        (folder / device).mkdir()
        spools[device] = Spool(folder / device, size)
        spools[device].keep(update(device, size))
        uploaders[device] = Uploader(device, TOPICS, bus, spools[device], time.monotonic)
        bus.subscribe(TOPICS.receipt(device))
        bus.subscribe(TOPICS.task)
    begun: set[str] = set()
    while buses:
        for device, bus in list(buses.items()):
            for topic, payload in bus.deliveries(0):
                if topic == TOPICS.task and payload:
                    decode(Task, payload)
                    begun.add(device)
                elif topic == TOPICS.receipt(device):
                    receipt = decode(Receipt, payload)
                    if receipt.outcome != "missing":
                        del buses[device]
                        break
                    uploaders[device].asked(receipt)
            if device in begun and device in buses:
                uploaders[device].step(1)
        time.sleep(0.0005)


def main() -> None:
    """Connect all devices, then send."""
    port, count, size, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    broker = Broker(port=port)
    buses = {f"d{i}": connect(f"d{i}", broker) for i in range(count)}
    every = list(buses.values())
    if sys.argv[5:] == ["flood"]:
        sys.stdin.readline()
        flood(buses, size)
    else:
        serve(buses, size, folder)
    for bus in every:
        bus.close()


if __name__ == "__main__":
    main()
