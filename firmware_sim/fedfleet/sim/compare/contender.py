"""Ways to train, as data: what each is, how it is run, what came of it. Nothing here knows any of them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cloud.federation import Evaluate
from fedfleet.models.compiled import Compiled
from fedfleet.sim.datasets import Dataset
from fedfleet.sim.simulate import Show
from fedfleet.sim.stage import Simulation
from fedfleet.wire.examples import Examples


@dataclass(frozen=True)
class Case:
    """What all train on alike: the data and who holds it, the program, the rounds and passes, the seed.

    `folder` is the comparison's; `tell` shows how far a way has come, `show` makes the view of a run of a fleet.
    """

    wanted: Simulation
    folder: Path
    dataset: Dataset
    parts: list[Examples]
    compiled: Compiled
    scorer: Evaluate
    tell: Callable[[str], None]
    show: Show

    @property
    def start_bytes(self) -> int:
        """What a device must have before it can train: the program, and the weights that all begin with."""
        return len(self.compiled.program) + self.compiled.shared.nbytes

    def score(self, weights: object) -> float:
        """The score of a model on the held-out examples, in natural units."""
        return self.scorer(weights)[self.dataset.metric]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ending:
    """What a run came to. `sent` and `received` are bytes of all devices together; `seconds` those of learning.

    `score` is that of the model which a device can use in the end, the mean over devices where each has its own, and
    `worst` then that of the worst; `curve` is the score after each round, as far as it is known. `ended` says whether
    the run came to its end by itself, `said` what else there is to say of it.
    """

    ended: bool
    score: float | None
    rounds: int
    seconds: float
    sent: int
    received: int
    worst: float | None = None
    said: str = ""
    curve: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Traits:
    """What is to be known of a way to train before it is run.

    `raw` says whether examples leave the devices; `needs` what must be there beside them; `whom` devices talk to;
    `deaths` what it means here that participants die.
    """

    name: str
    title: str
    leaves: str
    raw: bool
    whom: str
    needs: tuple[str, ...]
    scored: str
    deaths: str


@dataclass(frozen=True)
class Contender:
    """A way to train: what it is, and how to run it; the second argument says whether participants die half way."""

    traits: Traits
    run: Callable[[Case, bool], Ending]


@dataclass(frozen=True)
class Result:
    """A way to train, with what came of it: undisturbed, and where participants died half way, if that was run."""

    traits: Traits
    whole: Ending
    deaths: Ending | None = None
