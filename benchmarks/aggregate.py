"""How fast updates become a mean, and in how much memory: beside Flower's function, and the machine's own limit.

speed: 100 clients, models of 100,000, 1 and 10 million weights. Ours is the exact sum, from the bytes that came off the
wire (decoded, looked through for NaN, bounded) to the mean; `sum` is the same from arrays. Flower's is its function
`aggregate_arrayrecords` over the same 100 updates as its messages hold them. The limit is how long the memory takes to
hand the same bytes to all cores once. The shortest lap of several counts; the sides take turns, each in processes of
its own. Memory is a process's peak (VmHWM): ours takes updates as they come, Flower's function needs all of them.

flat: one process that takes 10,000 updates of a million weights into a round; its peak on the way.

The bars: 5 times Flower's speed at a million weights, 32 MiB more for 10,000 updates than for 10 (they would be 38 GiB;
a round remembers of each device what it said). The exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import outcome

SIZES = {"100k": 100_000, "1m": 1_000_000, "10m": 10_000_000}
CLIENTS, TURNS = 100, 3
FASTER, FLAT = 5.0, 32.0
BARRED = "1m"
HERE = Path(__file__).parent
ADDING = [sys.executable, str(HERE / "adding.py")]
FLOWER = """
import json, sys, time
import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
parameters, clients = map(int, sys.argv[1:])
base = (np.random.default_rng(0).standard_normal(parameters) * 0.01).astype(np.float32)
made = ((ArrayRecord([base + np.float32(i * 1e-4)]), MetricRecord({"num-examples": 10 + i})) for i in range(clients))
records = [RecordDict({"arrays": arrays, "metrics": metrics}) for arrays, metrics in made]
laps = []
for _ in range(5):
    began = time.perf_counter()
    aggregate_arrayrecords(records, "num-examples")
    laps.append(time.perf_counter() - began)
lines = open("/proc/self/status").read().splitlines()
peak = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
print(json.dumps({"flower": min(laps), "mib": peak}))
"""


def speed(size: str, flower: str) -> dict[str, float]:
    """Updates a second and MiB at one size, ours and those of the Flower that the interpreter `flower` has, if any."""
    parameters, laps = SIZES[size], list[dict[str, Any]]()
    for _ in range(TURNS):
        laps.append(_said(*ADDING, "time", str(parameters), str(CLIENTS)))
        if flower:
            theirs = _said(flower, "-c", FLOWER, str(parameters), str(CLIENTS))
            laps[-1] |= {"flower": theirs["flower"], "flower_mib": theirs["mib"]}
    seconds = {side: min(lap[side] for lap in laps) for side in ("whole", "sum", "limit", "flower") if side in laps[0]}
    found = {f"{side}_{size}": CLIENTS / took for side, took in seconds.items()}
    found[f"mib_{size}"] = _said(*ADDING, "grow", str(parameters), str(CLIENTS))["value"]
    if flower:
        found[f"flower_mib_{size}"] = min(lap["flower_mib"] for lap in laps)
        found[f"times_flower_{size}"] = seconds["flower"] / seconds["whole"]
    return found


def flat(updates: int) -> dict[str, float]:
    """The peak of a round's process after 10 updates of a million weights, and how much it grew until `updates`."""
    peaks = _said(*ADDING, "grow", str(SIZES["1m"]), "10", str(updates))
    return {"flat_mib_10": peaks["10"], f"flat_grew_{updates}": peaks[str(updates)] - peaks["10"]}


def _said(*command: str) -> dict[str, Any]:
    """Run a process and return the JSON that it prints; raises CalledProcessError."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def missed(found: Mapping[str, float]) -> list[str]:
    """The bars that were measured and not met."""
    grew = max((value for key, value in found.items() if key.startswith("flat_grew")), default=0.0)
    slow = found.get(f"times_flower_{BARRED}", FASTER) < FASTER
    return [*(["times_flower"] if slow else []), *(["flat"] if grew > FLAT else [])]


def rows(found: Mapping[str, float]) -> list[list[str]]:
    """The table of speed and memory by size."""
    heading = ["weights", "ours/s", "sum/s", "Flower/s", "limit/s", "times Flower", "ours MiB", "Flower MiB"]
    keys = ("whole", "sum", "flower", "limit", "times_flower", "mib", "flower_mib")
    sizes = [size for size in SIZES if f"whole_{size}" in found]
    return [heading, *([size, *(_cell(found.get(f"{key}_{size}")) for key in keys)] for size in sizes)]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def measure(parts: list[str], updates: int, flower: str) -> dict[str, float]:
    """Everything that was asked for."""
    found: dict[str, float] = {}
    for part in parts:
        print(f"{part} ...", flush=True)
        found |= flat(updates) if part == "flat" else speed(part, flower)
    return found


def installed(folder: Path) -> str:
    """Put Flower into an environment of its own; return its interpreter."""
    # here and not at the top: they load TensorFlow
    import device
    import flower

    device.install(folder, flower.PACKAGES[0])
    return str(folder / "bin" / "python")


def main() -> None:
    """Measure what was asked for."""
    known = [*SIZES, "flat"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(known), metavar="A,B", help=f"of {', '.join(known)} these alone")
    parser.add_argument("--updates", type=int, default=10_000, help="how many the flat part takes (10,000)")
    parser.add_argument("--no-flower", action="store_true", help="leave Flower out, which is downloaded (0.1 GB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, with versions and method")
    wanted = parser.parse_args()
    parts = wanted.only.split(",")
    if unknown := set(parts) - set(known):
        parser.error(f"unknown part {min(unknown)!r}; known: {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(parts, wanted.updates, "" if wanted.no_flower else installed(Path(folder)))
    if len(table := rows(found)) > 1:
        outcome.table(table)
    late = missed(found)
    about = {"method": __doc__, "bars": {"times_flower": FASTER, "flat": FLAT}, "missed": late}
    taken = {"machine": outcome.machine(), "load": os.getloadavg(), "versions": outcome.versions("numpy")}
    outcome.save(wanted.json, {**about, **taken, **found})
    outcome.result({**found, "missed": ",".join(late) or "none"})


if __name__ == "__main__":
    main()
