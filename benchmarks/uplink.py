"""Bytes that go up and down, and what is learned with them, for each codec after equally many rounds.

The devices' own trainer and the cloud's own round, without a broker between them: every device trains in every round,
for a few steps on its own uneven part of the data (turbofan: its own engine), updates are split into frames as they
are on the wire, and their bytes counted, headers and all. Each codec begins from the same weights and sees the same
batches. Down come the whole weights, or with `--downlink` what changed in them, to every device in every round but the
first. The score is the mean over the last fifth of the rounds, on data that no device has, so that the noise of one
round decides nothing; `lost` is float32's score less the codec's, in points of accuracy (rmse: in cycles more).

The bar: at least 16 times fewer bytes than float32 at no more than 0.5 lost. The exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import outcome

from fedfleet.cloud.downlink import published
from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.federation import Evaluate
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.rounds import Round
from fedfleet.cloud.strategies import strategy
from fedfleet.cloud.sums import Mean
from fedfleet.edge.data import Store
from fedfleet.edge.local import LocalTrainer
from fedfleet.models.compiled import Compiled
from fedfleet.models.quiet import quiet
from fedfleet.sim.datasets import Dataset, load
from fedfleet.sim.split import split
from fedfleet.wire.chunks import split as frames
from fedfleet.wire.codecs import PLAIN, codec
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Plan, Task

BAR = {"fewer": 16.0, "lost": 0.5}
CHOSEN = "topk:0.1+int4+zlib"
CODECS = (PLAIN, "float16", "int8", "int4", "int4+zlib", "topk:0.25+int4+zlib", CHOSEN, "topk:0.05+int4+zlib",
          "topk:0.02+int4+zlib")  # fmt: skip


class Setting(NamedTuple):
    """A fleet to try codecs on."""

    dataset: Dataset
    compiled: Compiled
    parts: list[Examples]
    score: Evaluate
    plan: Plan


class Found(NamedTuple):
    """What came of one codec: bytes up and down in a round for all devices, scores of the last rounds, seconds."""

    codec: str
    up: float
    down: float
    scores: list[float]
    seconds: float

    @property
    def score(self) -> float:
        """Their mean."""
        return statistics.fmean(self.scores)


class Tried(NamedTuple):
    """What came of all codecs on one kind of data; float32 comes first."""

    name: str
    metric: str
    parameters: int
    examples: list[int]
    plan: Plan
    found: list[Found]

    def lost(self, each: Found) -> float:
        """How much worse than float32's a score is: points of accuracy, or cycles of a root mean square error."""
        less = self.found[0].score - each.score
        return 100 * less if self.metric == "accuracy" else -less

    def document(self) -> dict[str, object]:
        """All of it, for a file."""
        codecs = [{**each._asdict(), "score": each.score, "lost": self.lost(each)} for each in self.found]
        return {**self._asdict(), "plan": asdict(self.plan), "found": codecs}


def prepare(data: str) -> Setting:
    """The fleet for a kind of data: digits, mnist:DIR or turbofan:DIR."""
    # here and not at the top: TensorFlow talks while it is loaded
    from fedfleet.sim import program

    dataset, kind = load(data, 0), data.partition(":")[0]
    natural = dataset.groups is not None
    parts = split("natural" if natural else "dirichlet:0.5", dataset, 20 if natural else 8, 0)
    compiled = program.compiled(program.build(dataset, kind, "", 0), dataset, 16)
    plan = Plan(steps=10, learning_rate=0.02, momentum=0.9)
    return Setting(dataset, compiled, parts, evaluator(compiled, dataset.test, dataset.target_scale), plan)


def federate(setting: Setting, name: str, rounds: int, folder: Path, downlink: str = "") -> Found:
    """Run all rounds with the codec called `name`; what cloud and devices remember lies in `folder`."""
    began = time.perf_counter()
    devices = _devices(setting, folder)
    server, weights, up, down = strategy("fedavg").server, setting.compiled.shared, 0, 0
    moments, scores, journal = np.zeros((0, weights.size)), [], Journal(folder / "cloud")
    last: Task | None = None
    for number in range(1, rounds + 1):
        blob, patch = published(journal, weights, last, downlink, number)
        plan, before = replace(setting.plan, codec=name), last
        task = last = Task(number, Blob.of(setting.compiled.program), blob, plan, patch=patch)
        path = _only(folder / "cloud" / "blobs", task, before)
        down += len(devices) * (patch.blob if patch else blob).size
        round_ = Round(task, weights.size, Mean.empty(weights.size), len(devices), devices)
        for trainer in devices.values():
            update = trainer.train(task, folder / "program", path, lambda: False)
            if update is None or round_.take(update).outcome != "counted":
                raise SystemExit(f"an update of round {number} with codec {name} was not counted")
            up += sum(map(len, frames(update)))
        weights, moments = server.step(weights, round_.aggregate.value(), moments)
        if number > rounds - max(1, rounds // 5):
            scores.append(setting.score(weights)[setting.dataset.metric])
    journal.close()
    return Found(name, up / rounds, down / rounds, scores, time.perf_counter() - began)


def _only(blobs: Path, task: Task, before: Task | None) -> Path:
    """Return where the weights of `task` lie; of others, those before it alone are kept."""
    kept = {named.weights.digest for named in (task, before) if named}
    for path in blobs.iterdir():
        if path.name not in kept:
            path.unlink()
    return blobs / task.weights.digest


def _devices(setting: Setting, folder: Path) -> dict[str, LocalTrainer]:
    """New devices, each with its part of the examples."""
    _written(folder / "program", setting.compiled.program)
    for index, part in enumerate(setting.parts):
        Store.open(folder / f"d{index}" / "examples", 2**30).append(part)
    return {f"d{i}": LocalTrainer(f"d{i}", folder / f"d{i}" / "examples") for i in range(len(setting.parts))}


def _written(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return data


def rows(tried: Tried) -> list[list[str]]:
    """The table; float32 comes first."""
    plain = tried.found[0]
    body = [
        [each.codec, f"{each.up / 1e3:,.1f}", f"{plain.up / each.up:.1f}", f"{each.down / 1e3:,.1f}",
         f"{each.score:.4f}", f"{tried.lost(each):+.2f}", f"{each.seconds:.0f}"]
        for each in tried.found
    ]  # fmt: skip
    return [[f"{tried.name}, codec", "kB up a round", "times fewer", "kB down", tried.metric, "lost", "seconds"], *body]


def figures(tries: Sequence[Tried], name: str) -> dict[str, str | float]:
    """What the last line says of the codec called `name`: for each kind of data, times fewer, and lost."""
    found: dict[str, str | float] = {"codec": name}
    for tried in tries:
        each = next(each for each in tried.found if each.codec == name)
        found |= {f"{tried.name}_fewer": tried.found[0].up / each.up, f"{tried.name}_lost": tried.lost(each)}
    return found


def meets(figures: Mapping[str, str | float]) -> bool:
    """Whether the bar is met for all kinds of data."""
    numbers = [(key.rpartition("_")[2], value) for key, value in figures.items() if isinstance(value, float)]
    return all(value >= BAR[what] if what == "fewer" else value <= BAR[what] for what, value in numbers)


def compare(data: str, names: Sequence[str], rounds: int, downlink: str = "") -> Tried:
    """Try all codecs on one kind of data; float32 goes down whole."""
    setting = prepare(data)
    found = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found.append(federate(setting, name, rounds, Path(folder), "" if name == PLAIN else downlink))
    sizes = [len(part.x) for part in setting.parts]
    return Tried(setting.dataset.name, setting.dataset.metric, setting.compiled.shared.size, sizes, setting.plan, found)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", metavar="DATA", help="digits (default), mnist:DIR or turbofan:DIR")
    parser.add_argument("--codecs", default=",".join(CODECS), metavar="A,B", help="these, beside float32")
    parser.add_argument("--downlink", default="", metavar="CODEC", help="of what changed in the weights; else whole")
    parser.add_argument("--rounds", type=int, default=50, help="rounds with each codec (default 50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file")
    wanted = parser.parse_args()
    names = [PLAIN, *(name for name in wanted.codecs.split(",") if name != PLAIN)]
    tries = []
    try:
        for name in (*names, wanted.downlink or PLAIN):
            codec(name)
        for data in wanted.data or ["digits"]:
            with tempfile.TemporaryDirectory() as log, quiet(Path(log) / "tensorflow.log"):
                tries.append(compare(data, names, wanted.rounds, wanted.downlink))
            outcome.table(rows(tries[-1]))
    except FedfleetError as error:
        parser.error(str(error))
    summary = figures(tries, CHOSEN if CHOSEN in names else names[-1])
    verdict = "met" if meets(summary) else "missed"
    print(f"bar: {BAR['fewer']:g} times fewer bytes and at most {BAR['lost']:g} lost, {summary['codec']}: {verdict}")
    outcome.save(
        wanted.json,
        {
            "method": __doc__,
            "bar": {**BAR, "verdict": verdict},
            "machine": outcome.machine(),
            "versions": outcome.versions("tensorflow", "keras", "numpy", *outcome.RUNTIMES),
            "data": [tried.document() for tried in tries],
            "result": summary,
        },
    )
    outcome.result({**summary, "rounds": wanted.rounds})


if __name__ == "__main__":
    main()
