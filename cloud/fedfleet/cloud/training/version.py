"""What central training made becomes a version in the registry: the next round starts from it, and devices get it.

It stands in the journal as a model that was gone back to does, under a number of its own above all rounds; with it
stands how it was made. The aggregator must be stopped meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfleet.cloud import registry, schema
from fedfleet.cloud.federation import NO_MOMENTS, packed
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import Version
from fedfleet.cloud.training.job import MOMENTUM, Job
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Plan, Task
from fedfleet.wire.record import plain

COLUMNS = "round, task, made, weights, moments, training, scores, origin, state, began, ended"
BETA = 0.999  # of Adam's second moment, as Keras has it


def require(folder: Path, program: Compiled) -> None:
    """Raise StoreError now, not after hours of training, where a version of `program` could not go into `folder`."""
    if not (folder / schema.DATABASE).is_file():
        return
    journal = Journal(folder)
    try:
        _require_alike(journal, program)
    finally:
        journal.close()


def bring_in(
    folder: Path, before: Compiled, trained: Compiled, plan: Plan, training: Mapping[str, Any],
    scores: Mapping[str, float], origin: int | None = None,
) -> Version:  # fmt: skip
    """Put `trained`, which training made from `before`, into the journal in `folder`, and return the version it is.

    `training` says how, `origin` is the version that it began with, if it was one of this journal. A round that is open
    is abandoned: its differences are from other weights. Raises StoreError, also where an aggregator runs.
    """
    journal = Journal(folder)
    try:
        _require_alike(journal, trained)
        weights, moments = (journal.blobs.put(data) for data in packed(trained.shared, NO_MOMENTS))
        start = Blob.of(before.shared.astype("<f4").tobytes())
        task = Task(journal.last_round() + 1, Blob.of(trained.program), start, plan, train=False)
        trained.save(registry.programs_of(folder) / trained.digest)
        made = (weights.digest, weights.digest, moments.digest)
        row = (task.round, json.dumps(plain(task)), *made, json.dumps(training), json.dumps(scores), origin)
        with schema.beside(folder, writes=True) as database:
            database.execute(f"UPDATE rounds SET state = 'abandoned', ended = {schema.NOW} WHERE state = 'open'")
            values = f"{', '.join('?' * len(row))}, 'trained', {schema.NOW}, {schema.NOW}"
            database.execute(f"INSERT INTO rounds ({COLUMNS}) VALUES ({values})", row)
        journal.tidy()
    finally:
        journal.close()
    return registry.find(registry.versions(folder), str(task.round))


def plan_of(job: Job) -> Plan:
    """Return the job as a plan, for the lineage."""
    momentum = 0.0 if job.optimizer == "sgd" else MOMENTUM
    second = BETA if job.optimizer == "adam" else 0.0
    return Plan(job.epochs, learning_rate=job.learning_rate, momentum=momentum, second_moment=second)


def _require_alike(journal: Journal, trained: Compiled) -> None:
    """Raise StoreError where the journal's models have another number of weights."""
    model = journal.model()
    size = len(journal.blobs.get(model.weights)) // 4 if model else trained.shared.size
    if size != trained.shared.size:
        raise StoreError(
            f"{journal.folder} has models of {size} weights, and this one has {trained.shared.size}; "
            "choose another state folder"
        )
