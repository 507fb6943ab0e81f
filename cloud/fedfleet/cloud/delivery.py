"""A model that no round made, when no round is left to bring it to devices: a task of its own that trains nothing."""

from __future__ import annotations

from fedfleet.cloud.journal import Journal, Model
from fedfleet.wire.messages import Blob, Plan, Task


def gone_back_to(journal: Journal) -> Model | None:
    """Return the newest model if no round made it: an older one that was gone back to, or one trained in the cloud."""
    model = journal.model()
    return model if model is not None and model.brought else None


def as_task(model: Model, program: Blob, parameters: int, newest: int) -> Task:
    """Return the task that has every device fetch and keep `model`, under its own round unless `newest` is beyond that.

    A fleet's rounds only grow; the number of a rollback is above all of its journal's.
    """
    number = model.round if newest <= model.round else newest + 1
    return Task(number, program, Blob(model.weights, 4 * parameters), Plan(), train=False)
