"""What a run is: what was asked for, and what it plays with once the data is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.cloud.settings import Rounds
from fedfleet.sim.datasets import Dataset
from fedfleet.sim.live import Screen
from fedfleet.sim.record import Recorder
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan

UNITS = {"turbofan": "cycles"}


@dataclass(frozen=True)
class Simulation:
    """What to run. `model` is FILE.py:FUNCTION, empty for the zoo's; `batch` is the device program's batch size.

    The layers named in `local` train on each device for itself. `faults` are those of the virtual engine. The cloud
    gets `cloud_share` of the training data, which no device has then, and refines with it as `refine` says.
    """

    data: str = "digits"
    devices: int = 8
    split: str = "dirichlet:0.5"
    strategy: str = "fedavg"
    engine: str = "mqtt"
    broker: str = "auto"
    faults: str = "none"
    model: str = ""
    local: tuple[str, ...] = ()
    batch: int = 16
    seed: int = 0
    rounds: Rounds = field(default_factory=Rounds)
    plan: Plan = field(default_factory=Plan)
    baselines: bool = True
    refine: str = ""
    cloud_share: float = 0.0

    @property
    def kind(self) -> str:
        """What kind of data: the part of `data` before the colon."""
        return self.data.partition(":")[0]


@dataclass(frozen=True)
class Stage:
    """What a run plays with once the data is there: one line for the screen, the run folder, who holds what.

    `dataset.train` is what devices hold; `cloud` is what was set aside before that, if anything was.
    """

    run: str
    folder: Path
    dataset: Dataset
    parts: list[Examples]
    recorder: Recorder
    screen: Screen
    cloud: Examples | None = None

    @property
    def fleet(self) -> str:
        """A name of its own for each run, so that runs can share a broker."""
        return self.run[-36:]
