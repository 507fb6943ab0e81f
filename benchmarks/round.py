"""What a round costs besides training, and in what memory: 8 real agents beside 8 clients of a Flower deployment.

Both train the same CNN (105,866 weights) on the same 64 examples a device, two epochs in batches of 16. Ours are agents
and their training processes over MQTT, and an aggregator with its journal on the disk; Flower is a SuperLink and 8
SuperNodes on loopback, defaults, FedAvg. All share the machine. Our round lasts from one new model to the next one,
Flower's from choosing clients to the mean; the overhead is that without the seconds of the slowest training. The first
round of each side, in which programs travel and processes start, is left out; of the others the shortest counts.

A device's memory: of ours, the peaks (VmHWM) of the agent and of its training process together; of Flower's client, the
largest sum of the resident sets of its processes that was seen at any one time. Of each side the median device counts,
as a fork that is caught in the act is seen twice.

The bars: 50 times less overhead than Flower, 8 times less memory. The exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import outcome
import watch

from fedfleet.cloud import schema
from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.models.compiled import Compiled
from fedfleet.models.quiet import quiet
from fedfleet.sim.brokers import running
from fedfleet.sim.fleet import ProcessFleet, fill
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

BARS = {"overhead": 50.0, "memory": 8.0}
PLAN = Plan(epochs=2, learning_rate=0.01, momentum=0.9)
Noted = Sequence[Mapping[str, float]]
"""Of each round its seconds, those of the slowest training, and how many devices reported."""


def ours(compiled: Compiled, parts: Sequence[Examples], rounds: int) -> dict[str, float]:
    """The figures of agents that have `parts`."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, devices = Path(name), len(parts)
        fill(folder / "devices", parts)
        broker = stack.enter_context(running("auto", folder)).broker
        bus, journal = MqttBus(broker, "bench-cloud"), Journal(folder / "cloud")
        stack.callback(bus.close)
        stack.callback(journal.close)
        fleet = ProcessFleet(folder / "devices", devices, "bench", broker)
        stack.callback(fleet.close)
        wanted = Rounds(total=rounds, devices=devices, quorum=devices)
        federation = Federation(compiled.program, compiled.shared, strategy("fedavg"), PLAN, wanted)
        noted, ends = list[dict[str, float]](), [time.monotonic()]

        def ended(record: RoundRecord) -> None:
            ends.append(time.monotonic())
            trained = _trained(folder / "cloud", record.round)
            noted.append({"seconds": ends[-1] - ends[-2], "training": max(trained), "devices": len(trained)})

        aggregator = Aggregator(federation, Topics("bench"), bus, journal, time.monotonic, report=ended)
        while not aggregator.done:
            aggregator.step(0.05)
            if gone := fleet.gone():
                raise RuntimeError((folder / "devices" / gone[0] / "agent.log").read_text()[-2000:])
        families = [[pid, *watch.descendants(pid)] for pid in fleet.pids().values()]
        memory = [sum(map(watch.peak_mib, family)) for family in families]
    return figures("ours", noted, memory)


def _trained(folder: Path, number: int) -> list[float]:
    """The seconds that each device trained for in a round; read at its end, as a journal soon forgets them."""
    with schema.beside(folder) as database:
        rows = database.execute("SELECT metrics FROM updates WHERE round = ?", (number,)).fetchall()
    return [json.loads(text)["seconds"] for (text,) in rows]


def theirs(devices: int) -> dict[str, float]:
    """The figures of Flower, installed into a folder that goes again."""
    # here and not at the top: they load TensorFlow
    import device
    import flower

    with tempfile.TemporaryDirectory() as name:
        device.install(Path(name) / "venv", *flower.PACKAGES)
        return deployed(Path(name), Path(name) / "venv" / "bin", devices)


def deployed(folder: Path, tools: Path, devices: int) -> dict[str, float]:
    """The figures of the Flower whose commands are in `tools`."""
    import flower

    with flower.deployed(folder, tools, devices) as running, ExitStack() as stack:
        seen = [stack.enter_context(flower.sampled(pid)) for pid in running.nodes]
        noted = running.rounds()
    return figures("flower", noted, [each["peak"] for each in seen])


def figures(side: str, noted: Noted, memory: Sequence[float]) -> dict[str, float]:
    """What is told of a side: its rounds but the first, and its devices' memory in MiB."""
    later = noted[1:]
    overhead = [each["seconds"] - each["training"] for each in later]
    return {
        f"{side}_round": statistics.median(each["seconds"] for each in later),
        f"{side}_training": statistics.median(each["training"] for each in later),
        f"{side}_overhead_median": statistics.median(overhead),
        f"{side}_overhead": min(overhead),
        f"{side}_mib": statistics.median(memory),
        f"{side}_devices": min(each["devices"] for each in later),
    }


def times(found: Mapping[str, float]) -> dict[str, float]:
    """How many times less ours is, where both were measured."""
    pairs = {"overhead": "overhead", "memory": "mib"}
    sides = {bar: (found.get(f"flower_{key}"), found[f"ours_{key}"]) for bar, key in pairs.items()}
    return {f"times_less_{bar}": theirs / ours for bar, (theirs, ours) in sides.items() if theirs is not None}


def rows(found: Mapping[str, float]) -> list[list[str]]:
    """The table."""
    sides = [side for side in ("ours", "flower") if f"{side}_round" in found]
    names = {
        "round": "a round, seconds (median)",
        "training": "of it the slowest training (median)",
        "overhead_median": "overhead, seconds (median)",
        "overhead": "overhead, seconds (shortest)",
        "mib": "memory of a device, MiB",
        "devices": "devices that reported",
    }
    body = [[text, *(f"{found[f'{side}_{key}']:.3g}" for side in sides)] for key, text in names.items()]
    return [["", *sides], *body]


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8, help="how many devices each side has (8)")
    parser.add_argument("--rounds", type=int, default=12, help="how many rounds ours has (12); Flower's are 3")
    parser.add_argument("--no-flower", action="store_true", help="leave Flower out (1.7 GB and minutes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, with versions and method")
    wanted = parser.parse_args()
    if wanted.devices < 1 or wanted.rounds < 2:
        parser.error("take at least 1 device and 2 rounds, of which the first is left out")
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        # here and not at the top: they load TensorFlow, which talks while it is loaded
        import device
        import tensorflow_client

        parts = [Examples(*tensorflow_client.examples(index)) for index in range(wanted.devices)]
        print(f"{wanted.devices} agents, {wanted.rounds} rounds ...", flush=True)
        found = ours(device.program("cnn"), parts, wanted.rounds)
        if not wanted.no_flower:
            print("Flower ...", flush=True)
            found |= theirs(wanted.devices)
    outcome.table(rows(found))
    less = times(found)
    missed = [bar for bar, least in BARS.items() if less.get(f"times_less_{bar}", least) < least]
    about = {"method": __doc__, "bars": BARS, "missed": missed, "machine": outcome.machine(), "load": os.getloadavg()}
    outcome.save(wanted.json, {**about, "versions": outcome.versions("numpy", "paho-mqtt"), **found, **less})
    outcome.result({**found, **less, "missed": ",".join(missed) or "none"})


if __name__ == "__main__":
    main()
