"""One run from data to report: a fleet learns, and what that bought is measured."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.console import Console

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.evaluate import evaluator, measured
from fedfleet.cloud.federation import Evaluate, Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Evaluation, Rounds
from fedfleet.cloud.strategies import outdated, strategy
from fedfleet.models.compiled import Compiled
from fedfleet.models.quiet import quiet
from fedfleet.sim import report
from fedfleet.sim.baselines import Job, alone_and_central
from fedfleet.sim.datasets import Dataset, load
from fedfleet.sim.engines import ENGINES, Drive, Place, connected
from fedfleet.sim.fleet import fill
from fedfleet.sim.live import Screen, headline
from fedfleet.sim.patience import Patience
from fedfleet.sim.record import Facts, Outcome, Recorder, read
from fedfleet.sim.split import histogram, split
from fedfleet.sim.virtual.faults import Faults, parse
from fedfleet.sim.virtual.fleet import AWAKE
from fedfleet.sim.virtual.pool import poisoned
from fedfleet.wire.bus import Bus
from fedfleet.wire.codecs import Weights, codec
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan
from fedfleet.wire.topics import Topics

PROCESSES = 1000  # each device of the engine mqtt is one, and its training child another
UNITS = {"turbofan": "cycles"}


@dataclass(frozen=True)
class Simulation:
    """What to run. `model` is FILE.py:FUNCTION, empty for the zoo's; `batch` is the device program's batch size.

    The layers named in `local` train on each device for itself. `faults` are those of the virtual engine.
    """

    data: str = "digits"
    devices: int = 8
    split: str = "dirichlet:0.5"
    strategy: str = "fedavg"
    engine: str = "mqtt"
    broker: str = "auto"
    faults: str = "none"
    model: str = ""
    local: tuple[str, ...] = ()
    batch: int = 16
    seed: int = 0
    rounds: Rounds = field(default_factory=Rounds)
    plan: Plan = field(default_factory=Plan)
    baselines: bool = True

    @property
    def kind(self) -> str:
        """What kind of data: the part of `data` before the colon."""
        return self.data.partition(":")[0]


@dataclass(frozen=True)
class Stage:
    """What a run plays with once the data is there: one line for the screen, the run folder, who holds what."""

    run: str
    folder: Path
    dataset: Dataset
    parts: list[Examples]
    recorder: Recorder
    screen: Screen


def simulate(wanted: Simulation, out: Path, console: Console) -> Path:
    """Run `wanted` into a new folder below `out` and return it; Ctrl-C ends all processes and leaves a readable run.

    Raises FedfleetError for what the owner can mend, KeyboardInterrupt when interrupted.
    """
    check(wanted)
    dataset = load(wanted.data, wanted.seed)
    parts = split(wanted.split, dataset, wanted.devices, wanted.seed)
    run = f"{wanted.kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    recorder = Recorder(_fresh(out / run))
    dealt = f"{sum(len(part.x) for part in parts)} examples on {len(parts)} devices ({wanted.split})"
    head = f"{recorder.folder}: {dealt}, {len(dataset.test.x)} held out"
    unit = UNITS.get(wanted.kind, "")
    with Screen(console, head, wanted.rounds.total, dataset.metric, unit) as screen:
        stage = Stage(recorder.folder.name, recorder.folder, dataset, parts, recorder, screen)
        try:
            _play(wanted, stage)
        finally:
            if (stage.folder / "run.json").exists():
                page = report.write(stage.folder)
                screen.table(report.table(read(stage.folder)))
                screen.say(f"report: {page}")
    return stage.folder


def check(wanted: Simulation) -> None:
    """Raise SettingsError for what could not be run, before anything is started."""
    least = strategy(wanted.strategy).least
    strategy(wanted.strategy).plan(wanted.plan)
    outdated(wanted.strategy, wanted.rounds.staleness)
    codec(wanted.plan.codec)
    codec(wanted.rounds.downlink or wanted.plan.codec)
    if wanted.engine not in ENGINES:
        raise SettingsError(f"unknown engine {wanted.engine!r}; known: {', '.join(ENGINES)}")
    if parse(wanted.faults) != Faults() and wanted.engine != "virtual":
        raise SettingsError("faults are made by the engine virtual alone: --engine virtual")
    most = AWAKE if wanted.engine == "virtual" else PROCESSES
    if not 1 <= wanted.devices <= most:
        raise SettingsError(f"devices must be 1 to {most} with the engine {wanted.engine}")
    if wanted.rounds.quorum > wanted.devices:
        raise SettingsError(f"a quorum of {wanted.rounds.quorum} cannot be reached by {wanted.devices} devices")
    if least > wanted.devices:
        raise SettingsError(f"{wanted.strategy} takes at least {least} devices, not {wanted.devices}: it has to choose")


def _play(wanted: Simulation, stage: Stage) -> None:
    began = time.monotonic()
    fill(stage.folder / "devices", poisoned(stage.parts, parse(wanted.faults), wanted.seed))
    place = Place(_fleet_name(stage), wanted.devices, stage.folder, wanted.seed, wanted.faults)
    with connected(wanted.engine, wanted.broker, place) as (drive, broker):
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
            weights = _federate(wanted, stage, compiled, scorer, drive, records)
        except KeyboardInterrupt:
            stage.recorder.outcome(_outcome(stage, records, began, finished=False))
            raise
    with quiet(stage.folder / "tensorflow.log"):
        programs.export(model, compiled, weights, stage.folder / "model")
    outcome = _outcome(stage, records, began, finished=True)
    stage.recorder.outcome(outcome)
    if wanted.baselines:
        stage.recorder.outcome(_compared(wanted, stage, compiled, scorer, outcome))


def _federate(
    wanted: Simulation,
    stage: Stage,
    compiled: Compiled,
    scorer: Evaluate,
    drive: Drive,
    records: list[RoundRecord],
) -> Weights:
    """Run all rounds and return the final weights; `records` gains one entry a round."""
    from fedfleet.cloud.events import Events

    events, patience = Events(stage.folder), Patience()

    def ended(record: RoundRecord) -> None:
        records.append(record)
        stage.recorder.round(record)
        events.round(record)
        stage.screen.round(record)
        patience.ended(record)

    # where births get lost or devices leave, who waits for all of them waits for ever
    there = wanted.devices if parse(wanted.faults) == Faults() else (wanted.devices + 1) // 2
    rounds = replace(wanted.rounds, devices=there)
    plan = strategy(wanted.strategy)
    judging = Evaluation(every=1 if wanted.plan.holdout else 0), measured(compiled, stage.dataset.target_scale)
    asked = (wanted.plan, rounds, wanted.seed, wanted.strategy, *judging)
    federation = Federation(compiled.program, compiled.shared, plan, *asked)

    def build(bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
        return Aggregator(federation, Topics(_fleet_name(stage)), bus, journal, clock, scorer, ended)

    def watch(aggregator: Aggregator, gone: list[str]) -> None:
        if reason := aggregator.hurry():
            patience.refused(reason)
        if len(gone) == wanted.devices:
            raise SettingsError(f"all agents ended; {stage.folder}/devices/{gone[0]}/agent.log says why")
        note = f"; ended: {', '.join(gone[:4])}" if gone else ""
        stage.screen.progress(*aggregator.progress(), aggregator.waiting() + note)

    try:
        return drive(build, watch)
    finally:
        events.close()


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
        strategy=wanted.strategy,
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
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for name in ("fedfleet", "ai-edge-litert", "tflite-runtime", "paho-mqtt"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _fleet_name(stage: Stage) -> str:
    """A name of its own for each run, so that runs can share a broker."""
    return stage.run[-36:]


def _fresh(folder: Path) -> Path:
    """Return `folder`, or one beside it with a number where that is taken."""
    names = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 100))]
    return next((name for name in names if not name.exists()), names[-1])
