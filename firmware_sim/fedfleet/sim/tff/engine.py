"""A run by TensorFlow Federated: it learns in processes of its own; here its rounds are asked for and scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedfleet.cloud.algorithms import ALGORITHMS
from fedfleet.cloud.federation import Evaluate, RoundRecord
from fedfleet.cloud.selection import window
from fedfleet.cloud.strategies import parts, strategy
from fedfleet.cloud.tff.child import Child
from fedfleet.cloud.tff.installed import needed
from fedfleet.models.compiled import Compiled
from fedfleet.sim.federate import Learn, told
from fedfleet.sim.fleet import device_id
from fedfleet.sim.stage import Simulation, Stage
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Blob, Plan, Task
from fedfleet.wire.record import plain

ENGINE = "tff"
MODULE = "fedfleet.sim.tff.worker"
NAME = "no broker: TensorFlow Federated"
PATIENCE = 3600.0  # seconds that a round may take
KNOWN = ("fedavg", "fedavgm", "fedprox", "fedadam", "fedyogi", "fedadagrad")
PLAN = ("nesterov", "second_moment", "weight_decay", "clip_norm", "time_budget", "holdout")


def check(wanted: Simulation) -> None:
    """Raise SettingsError for what TensorFlow Federated cannot do, or where it is not installed."""
    rule, algorithm = parts(wanted.strategy)
    name = algorithm.partition(":")[0]
    if not (name in KNOWN or name.startswith("tff.")) or not (rule.startswith("tff:") or not rule):
        known = ", ".join((*KNOWN, *(each for each in ALGORITHMS if each.startswith("tff."))))
        raise SettingsError(
            f"the engine tff cannot express {wanted.strategy[:64]}: it has {known}, alone or behind tff:FACTORY+"
        )
    refused = {name: getattr(wanted.plan, name) for name in PLAN} | {
        "local": wanted.local, "buffer": wanted.rounds.buffer, "downlink": wanted.rounds.downlink,
        "refine": wanted.refine, "replicas": wanted.combine.replicas, "dying": wanted.dying,
        "codec": "" if wanted.plan.codec == Plan().codec else wanted.plan.codec,
    }  # fmt: skip
    for key, value in refused.items():
        if value:
            raise SettingsError(f"the engine tff does not have {key}: leave it out, or take another engine")
    needed(f"the engine {ENGINE}")


@contextmanager
def learning(wanted: Simulation, stage: Stage) -> Iterator[tuple[Learn, str]]:
    """Start TensorFlow Federated; it ends with the block, and all that it has started. As `sim.learning.learning`."""
    child = Child(MODULE, stage.folder / "tff.log")
    try:
        child.start()
        yield partial(_learn, wanted, stage, child), NAME
    finally:
        child.close()


def _learn(
    wanted: Simulation, stage: Stage, child: Child, compiled: Compiled, scorer: Evaluate, records: list[RoundRecord]
) -> Weights:
    """Run all rounds and return the final weights; `records` gains one entry a round."""
    weights = compiled.weights
    with TemporaryDirectory() as folder, told(stage, records) as tell:
        compiled.save(folder)
        stage.screen.progress(0, 0, 0, "TensorFlow Federated compiles its process")
        child.ask(f"the engine {ENGINE}", PATIENCE, begun(wanted, stage.folder, Path(folder)))
        before: Task | None = None
        for number in range(1, wanted.rounds.total + 1):
            before = _task(wanted, number, before)
            called = [device for device in map(device_id, range(wanted.devices)) if before.calls(device)]
            stage.screen.progress(number, len(called), 0, "TensorFlow Federated trains")
            weights = _round(child, number, called, scorer, tell)
    return weights


def begun(wanted: Simulation, folder: Path, compiled: Path) -> dict[str, Any]:
    """Return what the worker is to know before the first round; `folder` holds the devices' data."""
    rule, algorithm = parts(wanted.strategy)
    return {
        "kind": "begin", "data": wanted.data, "model": wanted.model, "seed": wanted.seed, "rule": rule,
        "algorithm": algorithm, "plan": plain(strategy(wanted.strategy).plan(wanted.plan)),
        "compiled": str(compiled), "devices": str(folder / "devices"),
    }  # fmt: skip


def _round(
    child: Child, number: int, called: list[str], scorer: Evaluate, tell: Callable[[RoundRecord], None]
) -> Weights:
    began = time.monotonic()
    request = {"kind": "round", "round": number, "called": called}
    answer, (weights,) = child.ask(f"the engine {ENGINE}", PATIENCE, request)
    tell(
        RoundRecord(
            round=number,
            state="closed",
            reason=f"all {len(called)} clients that were called have trained",
            called=len(called),
            reported=len(called),
            late=0,
            examples=answer["examples"],
            train_loss=answer["loss"],
            bytes_up=0,
            bytes_down=0,
            seconds=time.monotonic() - began,
            weights=Blob.of(weights.astype("<f4").tobytes()).digest,
            device_rss_mib=0.0,
            scores=scorer(weights),
        )
    )
    return weights


def _task(wanted: Simulation, number: int, before: Task | None) -> Task:
    """Return the task of a round as an aggregator's would be, as far as it says who is called."""
    fleet = [device_id(index) for index in range(wanted.devices)]
    start, share = window(wanted.rounds, wanted.rounds.quorum, before, fleet)
    nothing = Blob.of(b"nothing")
    return Task(number, nothing, nothing, wanted.plan, share, wanted.seed, start=start)
