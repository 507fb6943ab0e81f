"""What a federation is, as values: what it starts from, and what each of its rounds was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import Strategy
from fedfleet.wire.codecs import Weights
from fedfleet.wire.messages import Plan

Evaluate = Callable[[Weights], dict[str, float]]


@dataclass(frozen=True)
class RoundRecord:
    """What one round was: who took part, what it moved, how good the model is after it."""

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


@dataclass(frozen=True)
class Federation:
    """What is to be done: the program, the shared weights to begin with, the strategy and its plan, the rounds."""

    program: bytes
    weights: Weights
    strategy: Strategy
    plan: Plan
    rounds: Rounds
    seed: int = 0
