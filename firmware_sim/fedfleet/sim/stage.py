"""What a run is: what was asked for, and what it plays with once the data is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.cloud.settings import Combine, Rounds
from fedfleet.sim.datasets import Dataset
from fedfleet.sim.live import View
from fedfleet.sim.record import GOSSIP, Happened, Recorder
from fedfleet.wire.examples import Examples, permutation
from fedfleet.wire.messages import Plan

UNITS = {"turbofan": "cycles"}


@dataclass(frozen=True)
class Simulation:
    """What to run. `model` is FILE.py:FUNCTION, empty for the zoo's; `batch` is the device program's batch size.

    The layers named in `local` train on each device for itself. `faults` are those of the virtual engine, `topology` is
    that of the engine gossip. A share `dying` of the devices is killed half way through the rounds, for good. The cloud
    gets `cloud_share` of the training data, which no device has then, and refines with it as `refine` says. Of a fleet
    that really runs, `mishaps` say what goes wrong on command (see mishaps.py).
    """

    data: str = "digits"
    devices: int = 8
    split: str = "dirichlet:0.5"
    strategy: str = "fedavg"
    engine: str = "mqtt"
    broker: str = "auto"
    topology: str = "ring"
    faults: str = "none"
    model: str = ""
    local: tuple[str, ...] = ()
    batch: int = 16
    seed: int = 0
    combine: Combine = field(default_factory=Combine)
    rounds: Rounds = field(default_factory=Rounds)
    plan: Plan = field(default_factory=Plan)
    baselines: bool = True
    dying: float = 0.0
    refine: str = ""
    cloud_share: float = 0.0
    mishaps: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What kind of data: the part of `data` before the colon."""
        return self.data.partition(":")[0]

    @property
    def rule(self) -> str:
        """What is done with what devices learned: the strategy, or the mean with the neighbours."""
        return f"gossip:{self.topology}" if self.engine == GOSSIP else self.strategy

    @property
    def half(self) -> int:
        """The last round that all devices see."""
        return self.rounds.total // 2

    @property
    def doomed(self) -> list[int]:
        """The devices that are killed after that round, drawn by the seed, in order."""
        order = permutation(self.devices, "doomed", self.seed)
        return sorted(int(device) for device in order[: round(self.dying * self.devices)])


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
    screen: View
    cloud: Examples | None = None

    @property
    def fleet(self) -> str:
        """A name of its own for each run, so that runs can share a broker."""
        return self.run[-36:]

    def mishap(self, round_: int, seconds: float, text: str) -> None:
        """Something went wrong on command, or is over: it is recorded, and shown."""
        self.recorder.happened(Happened(round_, seconds, text))
        self.screen.say(f"round {round_}: {text}")
