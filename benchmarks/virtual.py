"""What a thousand simulated devices cost a round: the virtual engine beside Flower's simulation engine.

1,000 devices, a model of 13,706 weights, training that costs next to nothing (seeded noise, of the same kind on both
sides), so that a round is all overhead. Ours are the agents and the aggregator that fleets have, under a virtual clock
in one process: offers, parts, checksums, receipts, spools and a journal, in RAM where there is /dev/shm; 20 rounds.
Flower's engine runs as many ClientApps on Ray, one processor each, without evaluation, 5 rounds. The seconds are a wall
clock's; the first round of each side is left out, of the others the shortest counts.

The bar: 5 times less than Flower. The exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import outcome
import watch

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.sim.virtual.faults import Faults
from fedfleet.sim.virtual.fleet import VirtualFleet
from fedfleet.wire.bus import Bus
from fedfleet.wire.messages import Plan
from fedfleet.wire.topics import Topics

BAR = 5.0
RAM = Path("/dev/shm")  # where nothing waits for a disk; Flower's engine keeps all in memory
PARAMETERS, FLOWER_ROUNDS = 13_706, 5
TOPICS = Topics("bench")
PACKAGE = "flwr[simulation]==1.41.0"
FLOWER = """
import json, sys, time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
devices, parameters, rounds = map(int, sys.argv[1:4])
client, server, seconds = ClientApp(), ServerApp(), []
class Noted(FedAvg):
    def configure_train(self, *arguments):
        self.began = time.monotonic()
        return super().configure_train(*arguments)
    def aggregate_train(self, number, replies):
        replies = list(replies)
        assert sum(reply.has_content() for reply in replies) == devices
        found = super().aggregate_train(number, replies)
        seconds.append(time.monotonic() - self.began)
        return found
@client.train()
def work(message, context):
    (weights,) = message.content["arrays"].to_numpy_ndarrays()
    noise = np.random.PCG64(context.node_config["partition-id"]).random_raw(weights.size)
    delta = ((noise >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1) * np.float32(0.01)
    content = {"arrays": ArrayRecord([weights + delta]), "metrics": MetricRecord({"num-examples": 10})}
    return Message(content=RecordDict(content), reply_to=message)
@server.main()
def main(grid, context):
    strategy = Noted(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=devices, min_available_nodes=devices)
    arrays = ArrayRecord([np.linspace(-1, 1, parameters, dtype=np.float32)])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)
run_simulation(server, client, devices, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}})
open(sys.argv[4], "w").write(json.dumps(seconds))
"""


def ours(devices: int, rounds: int) -> list[float]:
    """The seconds of each round of the virtual engine; raises RuntimeError where a device did not report."""
    ends, reported = [time.monotonic()], list[int]()

    def ended(record: RoundRecord) -> None:
        ends.append(time.monotonic())
        reported.append(record.reported)

    def build(bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
        start = np.linspace(-1, 1, PARAMETERS, dtype=np.float32)
        wanted = Rounds(total=rounds, devices=devices, quorum=devices, deadline=3600.0)
        return Aggregator(
            Federation(b"program", start, strategy("fedavg"), Plan(), wanted), TOPICS, bus, journal, clock, None, ended
        )

    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        fleet = VirtualFleet(Path(name), devices, TOPICS, build, lambda d, _: SeededTrainer(d), Faults(), 0)
        try:
            fleet.play(rounds * 3600.0)
        finally:
            fleet.close()
    if reported != [devices] * rounds:
        raise RuntimeError(f"of {devices} devices there reported, round by round: {reported}")
    return [end - began for began, end in itertools.pairwise(ends)]


def theirs(devices: int) -> list[float]:
    """The seconds of each round of Flower's engine, installed into a folder that goes again."""
    # here and not at the top: it loads TensorFlow
    import device

    with tempfile.TemporaryDirectory() as name:
        device.install(Path(name) / "venv", PACKAGE)
        return simulated(Path(name), Path(name) / "venv" / "bin" / "python", devices)


def simulated(folder: Path, python: Path, devices: int) -> list[float]:
    """The seconds of each round with the Flower of that interpreter; raises RuntimeError with its last words."""
    script, notes = folder / "simulation.py", folder / "notes.json"
    script.write_text(FLOWER)
    command = [str(python), str(script), str(devices), str(PARAMETERS), str(FLOWER_ROUNDS), str(notes)]
    quiet = {"FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
    ended = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, check=False)
    if ended.returncode != 0 or not notes.exists():
        raise RuntimeError(f"Flower's simulation did not finish: {(ended.stdout + ended.stderr)[-2000:]}")
    seconds: list[float] = json.loads(notes.read_text())
    return seconds


def figures(side: str, seconds: Sequence[float]) -> dict[str, float]:
    """What is told of a side: its rounds but the first."""
    return {f"{side}_round": min(seconds[1:]), f"{side}_round_median": statistics.median(seconds[1:])}


def times(found: Mapping[str, float]) -> dict[str, float]:
    """How many times less ours is, if both were measured."""
    return {"times_less": found["flower_round"] / found["ours_round"]} if "flower_round" in found else {}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000, help="how many devices each side has (1,000)")
    parser.add_argument("--rounds", type=int, default=20, help="how many rounds ours has (20)")
    parser.add_argument("--no-flower", action="store_true", help="leave Flower out (0.5 GB and minutes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, with versions and method")
    wanted = parser.parse_args()
    if wanted.devices < 1 or wanted.rounds < 2:
        parser.error("take at least 1 device and 2 rounds, of which the first is left out")
    print(f"{wanted.devices} virtual devices, {wanted.rounds} rounds ...", flush=True)
    found = figures("ours", ours(wanted.devices, wanted.rounds)) | {"ours_mib": watch.peak_mib(os.getpid())}
    if not wanted.no_flower:
        print("Flower ...", flush=True)
        found |= figures("flower", theirs(wanted.devices))
    less = times(found)
    outcome.table([["", "figure"], *([key, f"{value:.3g}"] for key, value in (found | less).items())])
    missed = "times_less" if less.get("times_less", BAR) < BAR else "none"
    about = {"method": __doc__, "bar": BAR, "missed": missed, "machine": outcome.machine(), "load": os.getloadavg()}
    outcome.save(wanted.json, {**about, "versions": outcome.versions("numpy"), **found, **less})
    outcome.result({**found, **less, "missed": missed})


if __name__ == "__main__":
    main()
