"""What a device needs while it trains, while it waits, and on disk; beside TensorFlow alone and a Flower client.

Memory is the peak resident set of a process since it was loaded (VmHWM). The device's are the real ones: the training
child of the agent, on a task with batches from a store, and the agent itself, connected to a broker. Its environment is
a fresh venv with edge/lock.txt. TensorFlow trains the same CNN in a process of its own. Flower is a SuperLink and one
SuperNode on loopback, defaults, FedAvg for three rounds; its client is the sum of the resident sets of its processes,
the largest that was seen at any one time. Disk and Flower download: 0.1 GB, and 1.7 GB into a folder that goes again.

The bars: the CNN at most 64 MiB, the MLP 48, the agent that waits 25. The exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import outcome

from fedfleet.models.quiet import quiet

BARS = {"cnn": 64.0, "mlp": 48.0, "idle": 25.0}
ROWS = {
    "cnn": "device, trains the CNN (105,866 weights)",
    "digits": "device, trains the zoo's digits (13,706)",
    "mlp": "device, trains the zoo's tabular (3,300)",
    "idle": "device, its agent waits for a task",
    "disk": "device, environment on disk",
    "tensorflow": "TensorFlow alone, trains the CNN",
    "flower_training": "Flower client, trains the CNN",
    "flower_clientapp": "  of it the ClientApp process",
    "flower_idle": "Flower client, waits",
    "flower_disk": "Flower client, environment on disk",
}
PARTS = ("cnn", "digits", "mlp", "idle", "disk", "tensorflow", "flower")


def rows(found: Mapping[str, float]) -> list[list[str]]:
    """The table."""
    body = [[ROWS[key], f"{value:.1f}", *_bar(key, value)] for key, value in found.items()]
    return [["", "MiB", "bar", ""], *body]


def _bar(key: str, value: float) -> list[str]:
    """What was to be reached, and whether it was."""
    return [f"<= {BARS[key]:g}", "met" if value <= BARS[key] else "missed"] if key in BARS else ["", ""]


def measure(parts: list[str]) -> dict[str, float]:
    """MiB by what was measured, in the order of the table."""
    # here and not at the top: they load TensorFlow, which talks while it is loaded
    import device
    import flower

    def part(name: str) -> dict[str, float]:
        if name == "flower":
            return flower.figures()
        single: Mapping[str, Callable[[], float]] = {
            "idle": device.idle_mib,
            "disk": device.disk_mib,
            "tensorflow": device.tensorflow_mib,
        }
        return {name: single[name]() if name in single else device.training_mib(device.program(name))}

    found: dict[str, float] = {}
    for name in parts:
        found |= part(name)
    return {key: found[key] for key in ROWS if key in found}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(PARTS)} these alone")
    parser.add_argument("--no-flower", action="store_true", help="leave Flower out, which takes minutes")
    parser.add_argument("--no-disk", action="store_true", help="leave the device's environment out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, with versions and method")
    wanted = parser.parse_args()
    left_out = {name for name, absent in (("flower", wanted.no_flower), ("disk", wanted.no_disk)) if absent}
    parts = [name for name in (wanted.only.split(",") if wanted.only else PARTS) if name not in left_out]
    if wrong := sorted(set(parts) - set(PARTS)):
        parser.error(f"nothing to measure is called {', '.join(wrong)}; known: {', '.join(PARTS)}")
    print(f"memory and disk: {', '.join(parts)}", flush=True)
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        found = measure(parts)
    outcome.table(rows(found))
    missed = [key for key, bar in BARS.items() if found.get(key, 0.0) > bar]
    outcome.save(
        wanted.json,
        {
            "method": __doc__,
            "bars": BARS,
            "missed": missed,
            "machine": outcome.machine(),
            "versions": outcome.versions("numpy", "paho-mqtt", "tensorflow", "keras", *outcome.RUNTIMES),
            "mib": found,
        },
    )
    outcome.result({**found, "missed": ",".join(missed) or "none", "runtime": outcome.runtime()})


if __name__ == "__main__":
    main()
