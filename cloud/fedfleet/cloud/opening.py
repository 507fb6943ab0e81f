"""How a round opens: the next task, the round of a task with what the journal has counted for it, who sits in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from fedfleet.cloud.downlink import controlled, published
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.presence import Presence
from fedfleet.cloud.rounds import Round
from fedfleet.cloud.selection import target, window
from fedfleet.cloud.servers import Moments
from fedfleet.wire.codecs import Weights
from fedfleet.wire.messages import Blob, Task


class Start(NamedTuple):
    """What a round begins with: its number, the device program, the model and the server optimizer's moments."""

    number: int
    program: Blob
    weights: Weights
    moments: Moments


def next_task(federation: Federation, journal: Journal, presence: Presence, start: Start) -> Task:
    """Return the task of a new round, by the plan of `federation` as it is; all that it names is in `journal`."""
    options, number, before = federation.rounds, start.number, journal.ended_task()
    weights, patch = published(journal, start.weights, before, options.downlink, number)
    place, share = window(options, federation.quorum, before, presence.fit(options.needs))
    control = controlled(journal, federation.strategy, start.moments, number)
    plan, seed, needs, deadline = federation.plan, federation.seed, options.needs, options.deadline
    task = Task(number, start.program, weights, plan, share, seed, deadline, patch, place, needs, control)
    every = federation.evaluation.every
    evaluate = every > 0 and journal.closed_rounds() % every == 0
    return replace(task, evaluate=evaluate, staleness=options.staleness)


def resumed(federation: Federation, journal: Journal, presence: Presence, task: Task) -> Round:
    """Return the round of `task` with whatever the journal has counted for it."""
    values, quorum = federation.strategy.values(federation.weights.size), federation.quorum
    oldest = max(journal.lineage(0)[0], task.round - task.staleness)
    found = Round(
        task, values, federation.strategy.aggregate(values), quorum, (),
        target=target(federation.rounds, quorum),
        grace=federation.rounds.grace,
        fits=partial(presence.fits, needs=task.needs),
        oldest=oldest,
        earlier=journal.counted(oldest, task.round),
    )  # fmt: skip
    for device in presence.devices:
        seat(found, presence, device)
    for update in journal.updates(task.round):
        found.take(update)
    return found


def seat(round_: Round, presence: Presence, device: str) -> None:
    """Tell `round_` what the statuses say of `device`."""
    declined, reason = presence.declined.get(device, (0, ""))
    if declined == round_.task.round:
        round_.decline(device, reason)
    elif device in presence.devices:
        round_.join(device)
    else:
        round_.lose(device)
