"""One run from data to report: a fleet learns, and what that bought is measured."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.federation import Evaluate, RoundRecord
from fedfleet.cloud.strategies import outdated, strategy
from fedfleet.models.compiled import Compiled
from fedfleet.models.quiet import quiet
from fedfleet.sim import refining, report
from fedfleet.sim.baselines import Job, alone_and_central
from fedfleet.sim.datasets import Dataset, load
from fedfleet.sim.fleet import fill
from fedfleet.sim.learning import check as engine
from fedfleet.sim.learning import learning
from fedfleet.sim.live import Screen, View, headline
from fedfleet.sim.record import Facts, Outcome, Recorder, read
from fedfleet.sim.split import histogram, set_aside, split
from fedfleet.sim.stage import UNITS, Simulation, Stage
from fedfleet.sim.virtual.faults import Faults, parse
from fedfleet.sim.virtual.fleet import AWAKE
from fedfleet.sim.virtual.pool import poisoned
from fedfleet.wire.codecs import codec
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples

Show = Callable[[Console, str, int, str, str], View]  # as Screen is made
PROCESSES = 1000  # each device of the engine mqtt is one, and its training child another


class Dealt(NamedTuple):
    """Who holds what: the data set, each device's examples, and the cloud's own where it has some."""

    dataset: Dataset
    parts: list[Examples]
    cloud: Examples | None = None


def simulate(wanted: Simulation, out: Path, console: Console, show: Show = Screen, dealt: Dealt | None = None) -> Path:
    """Run `wanted` into a new folder below `out` and return it; Ctrl-C ends all processes and leaves a readable run.

    `show` makes what shows how it goes; `dealt` is who holds what, where that is not for the split to say. Raises
    FedfleetError for what the owner can mend, KeyboardInterrupt.
    """
    check(wanted)
    dataset, parts, cloud = dealt or deal(wanted)
    run = f"{wanted.kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    recorder = Recorder(fresh(out / run))
    holding = f"{sum(len(part.x) for part in parts)} examples on {len(parts)} devices ({wanted.split})"
    own = f", {len(cloud.x)} in the cloud" if cloud else ""
    head = f"{recorder.folder}: {holding}{own}, {len(dataset.test.x)} held out"
    unit = UNITS.get(wanted.kind, "")
    with show(console, head, wanted.rounds.total, dataset.metric, unit) as screen:
        stage = Stage(recorder.folder.name, recorder.folder, dataset, parts, recorder, screen, cloud)
        try:
            _play(wanted, stage)
        finally:
            if (stage.folder / "run.json").exists():
                page = report.write(stage.folder)
                screen.table(report.table(read(stage.folder)))
                screen.say(f"report: {page}")
    return stage.folder


def deal(wanted: Simulation) -> Dealt:
    """Load the data, and deal it as the split says, once the cloud has its share. Raises DataError, SettingsError."""
    dataset, cloud = set_aside(load(wanted.data, wanted.seed), wanted.cloud_share, wanted.seed)
    return Dealt(dataset, split(wanted.split, dataset, wanted.devices, wanted.seed), cloud)


def check(wanted: Simulation) -> None:
    """Raise SettingsError for what could not be run, before anything is started."""
    chosen = strategy(wanted.strategy)
    chosen.plan(wanted.plan)
    outdated(wanted.strategy, wanted.rounds.staleness)
    refining.wanted_of(wanted)
    codec(wanted.plan.codec)
    codec(wanted.rounds.downlink or wanted.plan.codec)
    if parse(wanted.faults) != Faults() and wanted.engine != "virtual":
        raise SettingsError("faults are made by the engine virtual alone: --engine virtual")
    if wanted.dying and wanted.engine == "virtual":
        raise SettingsError("devices of the engine virtual die by its faults, such as dropout=0.3")
    engine(wanted)
    most = AWAKE if wanted.engine == "virtual" else PROCESSES
    if not 1 <= wanted.devices <= most:
        raise SettingsError(f"devices must be 1 to {most} with the engine {wanted.engine}")
    if wanted.rounds.quorum > wanted.devices:
        raise SettingsError(f"a quorum of {wanted.rounds.quorum} cannot be reached by {wanted.devices} devices")
    if chosen.least > wanted.devices:
        raise SettingsError(
            f"{wanted.strategy} takes at least {chosen.least} devices, not {wanted.devices}: it has to choose"
        )


def _play(wanted: Simulation, stage: Stage) -> None:
    began = time.monotonic()
    fill(stage.folder / "devices", poisoned(stage.parts, parse(wanted.faults), wanted.seed))
    with learning(wanted, stage) as (learn, broker):
        stage.screen.progress(0, 0, 0, "compiling the model while the devices start")
        with quiet(stage.folder / "tensorflow.log"):
            # Here and not at the top: TensorFlow takes seconds to load, and the devices start meanwhile.
            from fedfleet.sim import program as programs

            model = programs.build(stage.dataset, wanted.kind, wanted.model, wanted.seed)
            compiled = programs.compiled(model, stage.dataset, wanted.batch, wanted.local)
            scorer = evaluator(compiled, stage.dataset.test, stage.dataset.target_scale)
        facts = _facts(wanted, stage, compiled, broker, programs.versions())
        stage.recorder.facts(facts)
        stage.screen.say(headline(facts))
        records = list[RoundRecord]()
        try:
            weights = learn(compiled, scorer, records)
        except KeyboardInterrupt:
            stage.recorder.outcome(_outcome(stage, records, began, finished=False))
            raise
    with quiet(stage.folder / "tensorflow.log"):
        programs.export(model, compiled, weights, stage.folder / "model")
    outcome = _outcome(stage, records, began, finished=True)
    stage.recorder.outcome(outcome)
    if wanted.baselines:
        stage.recorder.outcome(_compared(wanted, stage, compiled, scorer, outcome))


def _compared(wanted: Simulation, stage: Stage, compiled: Compiled, scorer: Evaluate, outcome: Outcome) -> Outcome:
    """Train each device alone and all data in one place, and return `outcome` with their scores."""
    path = stage.folder / "model" / "program.tflite"
    job = Job(path, compiled.digest, compiled.weights, wanted.plan, wanted.rounds.total, wanted.seed)
    scores = []
    for done, weights in enumerate(alone_and_central(job, stage.parts, stage.folder / "baselines.log")):
        scores.append(scorer(weights)[stage.dataset.metric])
        what = "all data in one place" if done == 0 else f"device {done} of {wanted.devices} alone"
        stage.screen.progress(wanted.rounds.total, 0, 0, f"for comparison: {what} trained")
    return replace(outcome, central=scores[0], alone=tuple(scores[1:]))


def _outcome(stage: Stage, records: list[RoundRecord], began: float, *, finished: bool) -> Outcome:
    return Outcome(
        finished=finished,
        rounds=sum(record.state == "closed" for record in records),
        weights=records[-1].weights if records else "",
        federation=records[-1].scores.get(stage.dataset.metric) if records else None,
        alone=(),
        central=None,
        seconds=time.monotonic() - began,
        device_rss_mib=max((record.device_rss_mib for record in records), default=0.0),
        bytes_up=sum(record.bytes_up for record in records),
        bytes_down=sum(record.bytes_down for record in records),
    )


def _facts(wanted: Simulation, stage: Stage, compiled: Compiled, broker: str, versions: dict[str, str]) -> Facts:
    counts, labels = histogram(stage.dataset, stage.parts)
    return Facts(
        id=stage.run,
        data=wanted.data,
        split=wanted.split,
        strategy=wanted.rule,
        engine=wanted.engine,
        broker=broker,
        seed=wanted.seed,
        devices=wanted.devices,
        rounds=wanted.rounds.total,
        metric=stage.dataset.metric,
        scale=stage.dataset.target_scale,
        unit=UNITS.get(wanted.kind, ""),
        parameters=int(compiled.weights.size),
        program=compiled.digest,
        program_bytes=len(compiled.program),
        versions=versions | _versions(),
        counts=tuple(tuple(int(n) for n in row) for row in counts),
        labels=labels,
        refine=wanted.refine,
        cloud=len(stage.cloud.x) if stage.cloud else 0,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for name in ("fedfleet", "ai-edge-litert", "tflite-runtime", "tensorflow-federated", "paho-mqtt"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fresh(folder: Path) -> Path:
    """Return `folder`, or one beside it with a number where that is taken."""
    names = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 100))]
    return next((name for name in names if not name.exists()), names[-1])
