"""`fedfleet aggregate`: the cloud's side of a federation, against a broker that someone runs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from fedfleet.cli.logs import FIELDS, Format, Say, ending, voice
from fedfleet.cli.terminal import interruptible, needs
from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.combine import combined
from fedfleet.cloud.evaluate import evaluator, measured
from fedfleet.cloud.federated import Measure, brief
from fedfleet.cloud.federation import Evaluate, Federation, RoundRecord
from fedfleet.cloud.identity.doors import doors
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.operations import Operations
from fedfleet.cloud.refine.plan import Refine, owned, telling
from fedfleet.cloud.registry import drop_programs, programs_of
from fedfleet.cloud.releases.serving import Serving
from fedfleet.cloud.rollout.canary import staged
from fedfleet.cloud.rollout.releasing import Rolling
from fedfleet.cloud.settings import AggregatorSettings, Evaluation, load_aggregator
from fedfleet.cloud.strategies import Strategy, strategy
from fedfleet.cloud.tff.stepping import end
from fedfleet.models.compiled import Compiled, load
from fedfleet.models.quiet import quiet
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import read
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

EXAMPLES = """
[bold]examples[/bold]

fedfleet aggregate settings.toml

fedfleet aggregate settings.toml --log-format json
"""
TICK = 0.2
SAY_AGAIN = 30.0


def aggregate(
    settings: Annotated[Path, typer.Argument(help="The aggregator's settings (TOML).")],
    log_format: Annotated[
        Format, typer.Option(help="Lines for people, or a JSON object a line for what collects logs.")
    ] = Format.text,
) -> None:
    """Run a federation to its end; started again after any stop, it goes on where it was."""
    say = voice(log_format)
    with interruptible(), ending(log_format):
        found = load_aggregator(settings)
        say(f"fedfleet aggregate: fleet {found.fleet}, {found.rounds.total} rounds of {found.strategy}")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _serve(found, settings.resolve().parent, say)


def _serve(settings: AggregatorSettings, base: Path, say: Say) -> None:
    compiled = load(base / settings.model)
    scorer = evaluator(compiled, read(_relative(settings.evaluation.data, base))) if settings.evaluation.data else None
    rule = _rule(settings, base)
    shared, name, scores = compiled.shared, settings.strategy, settings.evaluation
    measure = gated(scores, measured(compiled))
    asked = (settings.plan, settings.rounds, settings.seed, name, scores, measure, settings.refine)
    federation = Federation(compiled.program, shared, rule, *asked)
    refine = _refiner(settings, base, compiled, scorer) if settings.refine.kind else None
    with ExitStack() as stack:
        stack.callback(end)
        journal = Journal(base / settings.state)
        stack.callback(journal.close)
        bus = MqttBus(settings.broker, f"{settings.fleet}-cloud")
        stack.callback(bus.close)
        operations = Operations(settings, base, time.monotonic, lambda: bus.reason)
        stack.callback(operations.close)

        def report(record: RoundRecord) -> None:
            operations.round(record)
            say(line(record), **known(record))

        running = list[Aggregator]()
        topics, refined = Topics(settings.fleet), telling(refine, lambda: operations.look(running[-1], now=True))
        with needs("cloud"):
            denied, desk = stack.enter_context(doors(base, settings))
        releases = settings.releases.repository
        serving = Serving(base / releases, bus, topics, time.monotonic) if releases else None
        more = (scorer, report, refined, denied, serving)

        def build(whole: Federation) -> Aggregator:
            running.append(Aggregator(whole, topics, bus, journal, time.monotonic, *more))
            return running[-1]

        beside = [desk, *([Rolling(base / releases, base / settings.state, time.monotonic).step] if releases else [])]

        def drive(aggregator: Aggregator, until: Callable[[], bool]) -> None:
            _run(aggregator, operations, say, beside, until)

        compiled.save(programs_of(base / settings.state) / compiled.digest)  # what `fedfleet model export` writes
        drop_programs(base / settings.state, compiled.digest)
        aggregator = staged(journal, federation, build, drive, say)
        aggregator.retire()
        operations.look(aggregator, now=True)
        compiled.with_weights(aggregator.weights).save(base / settings.state / "model")
        say(f"done: the trained model is in {base / settings.state / 'model'}")


def _rule(settings: AggregatorSettings, base: Path) -> Strategy:
    """Return the strategy, on replicas where they are asked for; what TensorFlow says of itself is left out."""
    found = strategy(settings.strategy, base)
    if settings.combine.replicas == 0:
        return found
    with needs("cloud"), TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        from fedfleet.cloud import replicas

        replicas.reserve(settings.combine.replicas, settings.refine.replicas)
        return combined(found, settings.combine.replicas)


def _refiner(settings: AggregatorSettings, base: Path, compiled: Compiled, scorer: Evaluate | None) -> Refine:
    plan = settings.refine
    data = owned(plan, _relative(plan.data, base))
    # here and not at the top: TensorFlow takes seconds to load; what it and the model's file print is no line of ours
    with TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"), redirect_stdout(sys.stderr):
        with needs("models"):
            from fedfleet.cloud.refine.refiner import refiner
            from fedfleet.models import source

        return refiner(plan, compiled, lambda: source.build(str(base / plan.model)), data, settings.seed, scorer)


def line(record: RoundRecord) -> str:
    """What is said of a round that is over; why, if it was abandoned."""
    scores = ", ".join(f"{name} {value:.4f}" for name, value in record.scores.items()) or "no scores"
    turnout = f"{record.reported} of {record.called} reported, {record.late} late, {record.seconds:.1f} s"
    said = f"round {record.round} {record.state}: {turnout}; {scores if record.state == 'closed' else record.reason}"
    found = [f"model {record.federated.of} on devices: {brief(record.federated)}"] if record.federated else []
    refined = [f"refined: {record.refined}"] if record.refined else []
    return "; ".join([said, *refined, *found, *([record.gate] if record.gate else [])])


def gated(evaluation: Evaluation, measure: Measure) -> Measure:
    """Return `measure`; raises SettingsError where the gate asks for another one."""
    if evaluation.gate not in ("", "loss", measure.name):
        raise SettingsError(f"evaluation.gate {evaluation.gate!r} is none of this model's: take {measure.name} or loss")
    return measure


def known(record: RoundRecord) -> dict[str, object]:
    """Return what a line of JSON holds of a round that is over."""
    return {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}


def _run(
    aggregator: Aggregator,
    operations: Operations,
    say: Say,
    beside: list[Callable[[], None]],
    until: Callable[[], bool],
) -> None:
    said, at = "", 0.0
    while not (aggregator.done or until()):
        aggregator.step(TICK)
        for each in beside:
            each()
        operations.look(aggregator)
        waiting = aggregator.waiting()
        if (waiting != said and time.monotonic() - at > SAY_AGAIN) or not said:
            say(f"waiting: {waiting}", round=aggregator.progress()[0])
            said, at = waiting, time.monotonic()


def _relative(spec: str, base: Path) -> str:
    """Return `scheme:FILE` with FILE relative to the settings file's folder."""
    scheme, colon, path = spec.partition(":")
    return f"{scheme}{colon}{base / path}" if colon else spec
