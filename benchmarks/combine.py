"""How fast updates are combined on replicas: beside NumPy in one process, and TFF's MeanFactory.

Each side is a process of its own that stays; all take turns, a lap each, from the bytes of the updates as they come off
the wire to their mean (TFF: from arrays). What counts is each side's lap over NumPy's of the same turn, and of that the
median. Replicas are parts of one CPU here unless there are GPUs: those share its cores and its memory, so that more of
them are no faster than the processor is. All of ours must come to the same bits.

With a GPU one more side is all of them (`gpu`); on a device alone, the bytes that folding moves a second, of 64 million
weights, are held against those of a plain copy there (`bandwidth`). TFF takes tens of gigabytes for more updates than
the fewest: only with --full.

The exit code is 0 unless bits differ.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import outcome

HERE = Path(__file__).parent
COMBINING = [sys.executable, str(HERE / "combining.py")]
TFF = HERE.parent / ".venv-tff" / "bin" / "python"
DEVICE = 2**26  # weights of which a device's bandwidth is measured: what starting a kernel takes is little then
SIDES = {"numpy": "0", "r1": "1", "r2": "2", "r4": "4"}
THEIRS = """
import json, sys, time
import numpy as np
import tensorflow_federated as tff
parameters = int(sys.argv[1])
base = (np.random.default_rng(0).standard_normal(parameters) * 0.01).astype(np.float32)
one = tff.TensorType(np.float32, [parameters]), tff.TensorType(np.float32)
process = tff.aggregators.MeanFactory().create(*one)
state = process.initialize()
print(json.dumps({"version": tff.__version__}), flush=True)
for line in sys.stdin:
    count = int(line.split()[1])
    values, weights = [base + np.float32(i * 1e-4) for i in range(count)], [np.float32(10 + i) for i in range(count)]
    began = time.perf_counter()
    found = np.asarray(process.next(state, values, weights).result)
    took = time.perf_counter() - began
    wanted = base + np.float32(sum(i * 1e-4 * (10 + i) for i in range(count)) / sum(10 + i for i in range(count)))
    assert np.allclose(found, wanted, atol=1e-5), (found, wanted)
    print(json.dumps({"seconds": took}), flush=True)
"""


class Side:
    """A process that answers a line with a line of JSON; `hello` is the first one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.hello = self._read()

    def ask(self, line: str) -> dict[str, Any]:
        """Return what it says to `line`; raises RuntimeError when it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r:.200} ended")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def side(*command: str, **variables: str) -> Iterator[Side]:
    """Run a side; it ends with the block, and all that it has started: TFF's worker outlives its parent otherwise."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    with (
        Path(os.devnull).open("w") as null,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=null, text=True, env=quiet,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield Side(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def measure(parameters: int, counts: list[int], laps: int, tff: str, full: bool) -> dict[str, Any]:
    """All laps of all sides, in seconds, by count and side; and what there was to measure on."""
    with ExitStack() as stack:
        size = str(parameters)
        sides = {
            name: stack.enter_context(side(*COMBINING, number, size, CUDA_VISIBLE_DEVICES="-1"))
            for name, number in SIDES.items()
        }
        device = stack.enter_context(side(*COMBINING, "-1", size))
        gpus = device.hello["gpus"]
        if gpus:
            sides["gpu"] = device
        if tff:
            sides["tff"] = stack.enter_context(side(tff, "-c", THEIRS, size))
        taken = {count: turns(sides, count, laps, full or count == min(counts)) for count in counts}
        about = {"gpus": gpus, "tff": sides["tff"].hello["version"] if tff else "none"}
        return {**about, "laps": taken, "device": device.ask(f"device {DEVICE}") if gpus else {}}


def turns(sides: Mapping[str, Side], count: int, laps: int, theirs: bool) -> dict[str, list[float]]:
    """The laps of each side, which take turns; the first turn, in which all is traced, is left out."""
    asked = {name: one for name, one in sides.items() if theirs or name != "tff"}
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(laps + 1):
        print(f"{count} updates, turn {number} of {laps} ...", flush=True)
        said = {name: one.ask(f"lap {count}") for name, one in asked.items()}
        if len(digests := {each["digest"] for each in said.values() if "digest" in each}) != 1:
            raise RuntimeError(f"{len(digests)} digests of the same updates")
        if number:
            for name, each in said.items():
                taken[name].append(each["seconds"])
    return taken


def figures(found: Mapping[str, Any]) -> dict[str, float | str]:
    """Updates a second of each side, its speed over NumPy's, and what of a device's bandwidth was reached."""
    said: dict[str, float | str] = {}
    for count, taken in found["laps"].items():
        for name, seconds in taken.items():
            said[f"{name}_{count}"] = count / statistics.median(seconds)
            if name != "numpy":
                ratios = [ours / theirs for ours, theirs in zip(taken["numpy"], seconds, strict=True)]
                said[f"{name}_over_numpy_{count}"] = statistics.median(ratios)
            if name in ("r4", "gpu") and "tff" in taken:
                ratios = [theirs / ours for ours, theirs in zip(seconds, taken["tff"], strict=True)]
                said[f"{name}_over_tff_{count}"] = statistics.median(ratios)
    if found["device"]:
        said["bandwidth"] = found["device"]["folding"] / found["device"]["copying"]
    return said | {"gpus": len(found["gpus"]), "tff": found["tff"], "bits": "alike"}


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The table: a row for each side, updates a second and times NumPy's speed for each count."""
    said, counts = figures(found), list(found["laps"])
    names = list(dict.fromkeys(name for taken in found["laps"].values() for name in taken))
    heading = ["side", *(f"{what}, {count}" for count in counts for what in ("updates/s", "over NumPy"))]
    keys = [key for count in counts for key in (f"_{count}", f"_over_numpy_{count}")]
    return [heading, *([name, *(_cell(said.get(name + key)) for key in keys)] for name in names)]


def _cell(value: float | str | None) -> str:
    return f"{value:,.3g}" if isinstance(value, float) and value < 100 else f"{value:,.0f}" if value else ""


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=1_000_000, help="weights of the model (1,000,000)")
    parser.add_argument(
        "--updates", default="100,1000", metavar="A,B", help="how many are combined in a lap (100,1000)"
    )
    parser.add_argument("--laps", type=int, default=5, help="turns that count (5)")
    parser.add_argument("--tff", type=Path, default=TFF, metavar="PYTHON", help="an interpreter that has TFF")
    parser.add_argument("--full", action="store_true", help="TFF combines the larger number as well: tens of gigabytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all laps there, with versions and method")
    wanted = parser.parse_args()
    counts = [int(count) for count in wanted.updates.split(",") if count.isdecimal() and int(count)]
    if len(counts) != len(wanted.updates.split(",")) or wanted.laps < 1 or wanted.parameters < 1:
        parser.error("updates, laps and parameters are numbers from 1")
    there = wanted.tff.exists()
    print(f"TFF: {wanted.tff}" if there else f"TFF left out: there is no {wanted.tff} (make test-tff installs it)")
    found = measure(wanted.parameters, counts, wanted.laps, str(wanted.tff) if there else "", wanted.full)
    print(f"GPUs: {', '.join(found['gpus']) or 'none was there; nothing was measured on one'}")
    outcome.table(rows(found))
    about = {"method": __doc__, "machine": outcome.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
    versions = outcome.versions("tensorflow", "tensorflow-cpu", "numpy")
    outcome.save(wanted.json, {**about, "versions": versions, "parameters": wanted.parameters, **found})
    outcome.result(figures(found))


if __name__ == "__main__":
    main()
