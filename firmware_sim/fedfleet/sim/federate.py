"""The rounds of a run that has an aggregator: it is built, driven and watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.evaluate import measured
from fedfleet.cloud.federation import Evaluate, Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.refine.plan import telling
from fedfleet.cloud.settings import Evaluation
from fedfleet.cloud.strategies import Strategy
from fedfleet.cloud.tff.stepping import end
from fedfleet.models.compiled import Compiled
from fedfleet.sim import mishaps, refining
from fedfleet.sim.engines import Drive
from fedfleet.sim.patience import Patience
from fedfleet.sim.stage import Simulation, Stage
from fedfleet.sim.virtual.faults import Faults, parse
from fedfleet.wire.bus import Bus
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.topics import Topics

Learn = Callable[[Compiled, Evaluate, list[RoundRecord]], Weights]
"""Takes the program, what scores weights, and a list that gains one entry a round; returns the weights."""


@contextmanager
def told(stage: Stage, records: list[RoundRecord]) -> Iterator[Callable[[RoundRecord], None]]:
    """Give what is to be called with each round that ends; `records` gains it, the run's files, and the screen."""
    from fedfleet.cloud.events import Events

    events = Events(stage.folder)

    def ended(record: RoundRecord) -> None:
        records.append(record)
        stage.recorder.round(record)
        events.round(record)
        stage.screen.round(record)

    try:
        yield ended
    finally:
        events.close()


def federate(
    wanted: Simulation,
    stage: Stage,
    drive: Drive,
    rule: Strategy,
    compiled: Compiled,
    scorer: Evaluate,
    records: list[RoundRecord],
) -> Weights:
    """Run all rounds and return the final weights; `records` gains one entry a round."""
    patience = Patience()
    # where births get lost or devices leave, who waits for all of them waits for ever
    calm = parse(wanted.faults) == Faults() and not wanted.mishaps
    returning = any(mishap.kind == "kill" and mishap.lasts for mishap in map(mishaps.parse, wanted.mishaps))
    there = wanted.devices if calm else (wanted.devices + 1) // 2
    rounds = replace(wanted.rounds, devices=there)
    judging = Evaluation(every=1 if wanted.plan.holdout else 0), measured(compiled, stage.dataset.target_scale)
    asked = (wanted.plan, rounds, wanted.seed, wanted.strategy, *judging, refining.wanted_of(wanted))
    federation = Federation(compiled.program, compiled.shared, rule, *asked)

    def watch(aggregator: Aggregator, gone: list[str]) -> None:
        if reason := aggregator.hurry():
            patience.refused(reason)
        if len(gone) == wanted.devices and not returning:
            raise SettingsError(f"all agents ended; {stage.folder}/devices/{gone[0]}/agent.log says why")
        note = f"; ended: {', '.join(gone[:4])}" if gone else ""
        stage.screen.progress(*aggregator.progress(), aggregator.waiting() + note)

    refine = refining.refiner(wanted, stage, compiled)

    with told(stage, records) as tell:

        def ended(record: RoundRecord) -> None:
            tell(record)
            if record.refined:
                stage.screen.say(f"round {record.round} refined: {record.refined}")
            patience.ended(record)

        def look() -> None:
            stage.screen.progress(len(records) + 1, 0, 0, "refining on the cloud's data")

        def build(bus: Bus, journal: Journal, clock: Callable[[], float]) -> Aggregator:
            refined = telling(refine, look)
            return Aggregator(federation, Topics(stage.fleet), bus, journal, clock, scorer, ended, refined)

        try:
            return drive(build, watch)
        finally:
            end()
