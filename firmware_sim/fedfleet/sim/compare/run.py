"""A comparison from data to page: every way on the same data, undisturbed and with deaths, and what that recommends."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fedfleet.cloud.evaluate import evaluator
from fedfleet.models.quiet import quiet
from fedfleet.sim.compare import alone, central, fleets
from fedfleet.sim.compare.advice import Advice, Scale, advise
from fedfleet.sim.compare.contender import Case, Contender, Result
from fedfleet.sim.compare.line import Line
from fedfleet.sim.datasets import load
from fedfleet.sim.record import score_text, size_text
from fedfleet.sim.simulate import check, fresh
from fedfleet.sim.split import split
from fedfleet.sim.stage import UNITS, Simulation
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import plain

DOCUMENT = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """What was compared and what came of it; `examples` are those that all devices hold, `raw` their bytes."""

    wanted: Simulation
    scale: Scale
    examples: int
    raw: int
    parameters: int
    start_bytes: int
    doomed: tuple[int, ...]
    seconds: float
    results: tuple[Result, ...]
    advice: Advice


def contenders(refine: str, cloud_share: float) -> list[Contender]:
    """All ways that are compared, in the order of the page; the hybrid refines as `refine` says, on that share."""
    federated = fleets.federation(), fleets.hybrid(refine, cloud_share)
    return [central.contender(), alone.contender(), *federated, fleets.gossip()]


def compare(wanted: Simulation, ways: Sequence[Contender], out: Path, console: Console) -> tuple[Path, Comparison]:
    """Run all `ways` into a new folder below `out`; returns it, and what came of it. Ctrl-C ends all processes.

    Raises FedfleetError for what the owner can mend, KeyboardInterrupt when interrupted.
    """
    began = time.monotonic()
    dataset = load(wanted.data, wanted.seed)
    parts = split(wanted.split, dataset, wanted.devices, wanted.seed)
    folder = fresh(out / f"compare-{wanted.kind}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True)
    with Line(console) as line:
        dealt = f"{sum(len(part.x) for part in parts):,} examples on {len(parts)} devices ({wanted.split})"
        line.say(f"{folder}: {dealt}, {len(dataset.test.x):,} held out")
        with quiet(folder / "tensorflow.log"):
            # Here and not at the top: TensorFlow takes seconds to load.
            from fedfleet.sim import program

            model = program.build(dataset, wanted.kind, wanted.model, wanted.seed)
            compiled = program.compiled(model, dataset, wanted.batch)
            scorer = evaluator(compiled, dataset.test, dataset.target_scale)
        case = Case(wanted, folder, dataset, parts, compiled, scorer, line.tell, line.view)
        scale = Scale(dataset.metric, UNITS.get(wanted.kind, ""), len(dataset.test.x))
        results = tuple(_result(way, case, line, scale) for way in ways)
    found = Comparison(
        wanted=wanted,
        scale=scale,
        examples=sum(len(part.x) for part in parts),
        raw=sum(part.x.nbytes + part.y.nbytes for part in parts),
        parameters=int(compiled.shared.size),
        start_bytes=case.start_bytes,
        doomed=tuple(wanted.doomed),
        seconds=time.monotonic() - began,
        results=results,
        advice=advise(results, scale),
    )
    files.write(folder / DOCUMENT, json.dumps(document(found), indent=1, allow_nan=False).encode())
    return folder, found


def require(wanted: Simulation, refine: str, cloud_share: float) -> None:
    """Raise SettingsError for what could not be run in every way, before anything is started."""
    check(replace(wanted, engine="mqtt", refine=refine, cloud_share=cloud_share))
    check(replace(wanted, engine="gossip"))
    if wanted.dying and not 0 < len(wanted.doomed) < wanted.devices:
        raise SettingsError(
            f"a share of {wanted.dying:g} of {wanted.devices} devices is {len(wanted.doomed)}: "
            "some must die, and some live; take more devices, another share, or 0"
        )
    if wanted.rounds.total < 2:
        raise SettingsError("a comparison takes at least 2 rounds, as participants die half way")


def _result(way: Contender, case: Case, line: Line, scale: Scale) -> Result:
    """Run one way, and once more with deaths."""
    title = way.traits.title
    line.begin(title)
    whole = way.run(case, False)
    moved = f"sent {size_text(whole.sent)}, received {size_text(whole.received)}"
    line.say(f"{title}: {scale.metric} {scale.text(whole.score)}, {moved}, {whole.seconds:.1f} s")
    if not case.wanted.dying:
        return Result(way.traits, whole)
    line.begin(f"{title}, with deaths")
    deaths = way.run(case, True)
    how = "it came to its end" if deaths.ended else f"it did not come to its end ({deaths.said})"
    line.say(f"{title}, with deaths: {scale.metric} {scale.text(deaths.score)}; {how}")
    return Result(way.traits, whole, deaths)


def document(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON values, with null for numbers that are not finite."""
    return _finite(plain(found))  # type: ignore[no-any-return]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def figures(found: Comparison) -> dict[str, object]:
    """Return the figures of the closing line, four digits each."""
    values: dict[str, object] = {"recommended": found.advice.name or "none", "metric": found.scale.metric}
    for result in found.results:
        values[result.traits.name] = result.whole.score
        if result.deaths:
            values[f"{result.traits.name}_deaths"] = result.deaths.score
    values["seconds"] = found.seconds
    return {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in values.items()}


def rows(found: Comparison) -> list[tuple[str, ...]]:
    """The answer as a table: a heading, and a row for each way."""
    scale, share = found.scale, found.wanted.dying
    heads = ("trained by", scale.metric, "worst", "devices sent", "received", "to", "seconds", f"{share:.0%} die")
    return [heads, *(_row(result, scale) for result in found.results)]


def _row(result: Result, scale: Scale) -> tuple[str, ...]:
    whole, deaths = result.whole, result.deaths
    died = "—"
    if deaths:
        died = scale.text(deaths.score) + ("" if deaths.ended else ", once started again" if deaths.score else "")
    return (
        result.traits.title,
        scale.text(whole.score),
        score_text(whole.worst, scale.metric, scale.unit),
        size_text(whole.sent) if whole.sent else "nothing",
        size_text(whole.received) if whole.received else "nothing",
        result.traits.whom,
        f"{whole.seconds:.1f}",
        died,
    )
