"""Each device alone: a process for each, and nothing between them."""

from __future__ import annotations

import time

from fedfleet.sim.baselines import Job
from fedfleet.sim.compare.apart import trained
from fedfleet.sim.compare.contender import Case, Contender, Ending, Traits

TRAITS = Traits(
    name="alone",
    title="each device alone",
    leaves="nothing",
    raw=False,
    whom="nobody",
    needs=(),
    scored="each device's own model, mean over the devices",
    deaths="the processes of these devices are killed half way; the score is the mean of those that live",
)


def contender() -> Contender:
    """Each device for itself."""
    return Contender(TRAITS, _run)


def _run(case: Case, dying: bool) -> Ending:
    wanted, folder = case.wanted, case.folder / TRAITS.name
    case.compiled.save(folder)
    program = folder / "program.tflite"
    job = Job(program, case.compiled.digest, case.compiled.weights, wanted.plan, wanted.rounds.total, wanted.seed)
    doomed, began, scores = wanted.doomed if dying else [], time.monotonic(), list[float]()
    for index, weights in trained(job, case.parts, doomed, folder / "training.log"):
        if weights is not None:
            scores.append(case.score(weights))
        case.tell(f"device {index}: {'killed' if weights is None else 'trained'}")
    worst = (min if case.dataset.metric == "accuracy" else max)(scores)
    count = len(case.parts)
    return Ending(
        ended=True,
        score=sum(scores) / len(scores),
        rounds=wanted.rounds.total,
        seconds=time.monotonic() - began,
        sent=0,
        received=count * case.start_bytes,
        worst=worst,
        said=f"{len(doomed)} of {count} devices have no model any more" if doomed else "",
    )
