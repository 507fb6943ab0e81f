"""What a federation is, as values: what it starts from, and what each of its rounds was."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedfleet.cloud.federated import Federated, Measure
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.refine.plan import Refinement, Refining
from fedfleet.cloud.rounds import Counted, Round, Verdict
from fedfleet.cloud.servers import Moments
from fedfleet.cloud.settings import Evaluation, Rounds
from fedfleet.cloud.strategies import Strategy, algorithm
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Plan

Evaluate = Callable[[Weights], dict[str, float]]
NO_MOMENTS = np.zeros(0)  # of a model that no round made: the server's optimizer begins anew
MAX_METRIC = 2.0**53
WRITTEN = "the journal was written with {}; go on with that, or choose another state folder"


@dataclass(frozen=True)
class RoundRecord:
    """What one round was: who took part, what it moved, how good the model is after it.

    `federated` is what devices made of the model that they began with; `gate` what was decided when the round ended;
    `refined` how the cloud refined the model after it, if it did.
    """

    round: int
    state: str
    reason: str
    called: int
    reported: int
    late: int
    examples: int
    train_loss: float
    bytes_up: int
    bytes_down: int
    seconds: float
    weights: str
    device_rss_mib: float
    scores: dict[str, float] = field(default_factory=dict)
    refused: int = 0
    federated: Federated | None = None
    gate: str = ""
    refined: Refinement | None = None


@dataclass(frozen=True)
class Federation:
    """What is to be done: the program, the shared weights to begin with, the strategy and its plan, the rounds.

    `name` is the strategy's, for the lineage of what it makes; `measure` the program's metric; `refining`
    says which models are refined.
    """

    program: bytes
    weights: Weights
    strategy: Strategy
    plan: Plan
    rounds: Rounds
    seed: int = 0
    name: str = ""
    evaluation: Evaluation = field(default_factory=Evaluation)
    measure: Measure = field(default_factory=Measure)
    refining: Refining = field(default_factory=Refining)

    @property
    def quorum(self) -> int:
        """How many devices must report: what the rounds ask for, or what the strategy's rule takes."""
        return max(self.rounds.quorum, self.strategy.least)


def restore(journal: Journal, federation: Federation) -> tuple[Weights, Moments]:
    """Return the newest model in `journal`, or what the federation begins with; raises StoreError for another's."""
    model = journal.model()
    size, control = federation.weights.size, federation.strategy.control
    empty = federation.strategy.moments(size)
    last = journal.open_task() or journal.ended_task()
    if last is not None and (last.control is None) is not (control is None):
        raise StoreError(WRITTEN.format("another strategy"))
    if model is None:
        return federation.weights, empty
    weights = np.frombuffer(journal.blobs.get(model.weights), "<f4").astype(np.float32)
    if weights.size != size:
        raise StoreError(
            f"the journal's model has {weights.size} weights, the program {size}; choose another state folder"
        )
    moments = np.load(io.BytesIO(journal.blobs.get(model.moments)), allow_pickle=False)
    if moments.shape == NO_MOMENTS.shape:
        return weights, empty
    known = model.strategy and federation.name
    changed = bool(moments.size and known) and algorithm(model.strategy) != algorithm(federation.name)
    if changed or moments.shape != empty.shape:
        raise StoreError(WRITTEN.format(f"strategy {model.strategy}" if known else "another strategy"))
    # devices do not go back: their control variates begin anew with one of zeros
    return weights, empty if control and model.brought else moments


def packed(weights: Weights, moments: Moments) -> tuple[bytes, bytes]:
    """Return the blobs that `restore` reads."""
    buffer = io.BytesIO()
    np.save(buffer, moments, allow_pickle=False)
    return weights.astype("<f4").tobytes(), buffer.getvalue()


def recorded(
    round_: Round, verdict: Verdict, seconds: float, bytes_up: int, weights: Weights, refused: int = 0
) -> RoundRecord:
    """Return what is to be remembered of a round that is over; `weights` are the model after it."""
    updates = [*round_.counted.values(), *round_.stale.values()]
    examples = sum(update.examples for update in updates)
    loss = sum(_metric(update, "loss") * update.examples for update in updates) / max(examples, 1)
    return RoundRecord(
        round=round_.task.round,
        state=verdict.state,
        reason=verdict.reason,
        called=len(round_.called),
        reported=len(updates),
        late=len(round_.called) - len(round_.counted),
        examples=examples,
        train_loss=loss,
        bytes_up=bytes_up,
        bytes_down=int(sum(_metric(update, "down") for update in updates)),
        seconds=seconds,
        weights=Blob.of(weights.astype("<f4").tobytes()).digest,
        device_rss_mib=max((_metric(update, "rss_mib") for update in updates), default=0.0),
        refused=refused,
    )


def _metric(update: Counted, name: str) -> float:
    """Return one of the numbers that came with `update`, 0 if it did not; bounded, as a device may say anything."""
    return min(max(update.metrics.get(name, 0.0), -MAX_METRIC), MAX_METRIC)
