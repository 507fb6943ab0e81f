"""The ways that are runs of a fleet: federation, federation that refines in between, gossip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from fedfleet.sim.compare.contender import Case, Contender, Ending, Traits
from fedfleet.sim.record import Run, read, score, score_text, size_text
from fedfleet.sim.simulate import Dealt, simulate
from fedfleet.sim.split import LEAST
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.examples import Examples, permutation, take

KILLED = "the processes of these devices are killed half way, for good"
FEDERATION = Traits(
    name="federation",
    title="federation",
    leaves="model updates",
    raw=False,
    whom="the cloud",
    needs=("a broker", "an aggregator"),
    scored="the one model",
    deaths=KILLED,
)
HYBRID = replace(
    FEDERATION,
    name="hybrid",
    title="hybrid",
    needs=("a broker", "an aggregator with TensorFlow", "data of the cloud's own"),
    scored="the one model, which the cloud refines between rounds",
)
GOSSIP = Traits(
    name="gossip",
    title="gossip",
    leaves="models",
    raw=False,
    whom="neighbours",
    needs=("a broker",),
    scored="each device's own model, mean over the devices",
    deaths=KILLED,
)


def federation() -> Contender:
    """Federated averaging."""
    return Contender(FEDERATION, partial(_run, FEDERATION.name, {"engine": "mqtt"}))


def hybrid(refine: str, cloud_share: float) -> Contender:
    """Federated averaging whose models the cloud refines, as `refine` says, on so much of the data as its own."""
    change = {"engine": "mqtt", "refine": refine, "cloud_share": cloud_share}
    return Contender(HYBRID, partial(_run, HYBRID.name, change))


def gossip() -> Contender:
    """Averaging with neighbours, without an aggregator."""
    return Contender(GOSSIP, partial(_run, GOSSIP.name, {"engine": "gossip"}))


def _run(name: str, change: Mapping[str, Any], case: Case, dying: bool) -> Ending:
    """Simulate the fleet; where devices die, an error that ends the run is what came of it."""
    wanted = replace(case.wanted, **change, dying=case.wanted.dying if dying else 0.0, baselines=False)
    out = case.folder / (f"{name}-deaths" if dying else name)
    try:
        simulate(wanted, out, Console(quiet=True), case.show, _dealt(case, wanted.cloud_share))
    except FedfleetError as error:
        if not dying:
            raise
        return _ending(case, read(next(out.iterdir())), str(error))
    return _ending(case, read(next(out.iterdir())), _left(case) if dying else "")


def _dealt(case: Case, share: float) -> Dealt:
    """The same examples as in every other way, of which the cloud gets a `share` of each device's."""
    if not share:
        return Dealt(case.dataset, case.parts)
    kept, given = [], []
    for index, part in enumerate(case.parts):
        order = permutation(len(part.x), "cloud", case.wanted.seed, index)
        count = min(round(share * len(order)), len(order) - LEAST)
        given.append(take(part, np.sort(order[:count])))
        kept.append(take(part, np.sort(order[count:])))
    cloud = Examples(np.concatenate([part.x for part in given]), np.concatenate([part.y for part in given]))
    return Dealt(case.dataset, kept, cloud)


def _set_aside(case: Case, run: Run) -> str:
    """What the cloud's own data is, and what it would cost the devices if it were theirs."""
    each = sum(part.x.nbytes + part.y.nbytes for part in case.parts) / sum(len(part.x) for part in case.parts)
    size = size_text(run.facts.cloud * each)
    refined = [str(record.refined) for record in run.rounds if record.refined]
    last = f"; {len(refined)} times, the last one: {refined[-1]}" if refined else ""
    cost = f"{size}, if devices had to send them"
    return f"{run.facts.cloud:,} examples are the cloud's own, and no device has them ({cost}){last}"


def _left(case: Case) -> str:
    return f"{len(case.wanted.doomed)} of {case.wanted.devices} devices were gone, the others went on to the last round"


def _ending(case: Case, run: Run, said: str) -> Ending:
    metric, last = run.facts.metric, run.rounds[-1] if run.rounds else None
    scores = last.scores if last else {}
    key = f"mean_{metric}" if run.gossips else metric
    if run.gossips and metric in scores:
        mean = f"the mean of all models, which no device holds: {score_text(scores[metric], metric, run.facts.unit)}"
        said = f"{said}; {mean}" if said else mean
    if run.facts.cloud:
        said = "; ".join(filter(None, (said, _set_aside(case, run))))
    received = sum(record.bytes_down for record in run.rounds)
    # over the broker in a federation, and counted there
    first = len(case.parts) * case.start_bytes if run.gossips else 0
    return Ending(
        ended=run.finished,
        score=scores.get(key),
        rounds=len(run.rounds),
        seconds=sum(record.seconds for record in run.rounds),
        sent=sum(record.bytes_up for record in run.rounds),
        received=received + first,
        worst=scores.get(f"worst_{metric}"),
        said=said,
        curve=tuple(score(record, key) for record in run.rounds),
    )
