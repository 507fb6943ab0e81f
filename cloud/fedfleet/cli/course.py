"""One course of central training, from what was asked for to the program and the version that came of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from fedfleet.cli.engine import check, together, trainer
from fedfleet.cli.epochs import Epochs
from fedfleet.cli.terminal import needs, require_writable
from fedfleet.cloud import registry
from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.training import version
from fedfleet.cloud.training.job import Job, Passed, Tell, Trained
from fedfleet.models.compiled import Compiled, load
from fedfleet.models.quiet import quiet
from fedfleet.sim import datasets
from fedfleet.sim.datasets import Dataset
from fedfleet.wire.errors import SettingsError, WorkerLost

GONE = "fedfleet: a worker that was there has gone while TensorFlow began; start this one again, it waits for all"
LABELS, TARGETS = "sparse_categorical_crossentropy", "mean_squared_error"


@dataclass(frozen=True)
class Wanted:
    """What was asked for, option by option; see `fedfleet train --help`."""

    data: str
    test: str
    model: str
    start: str
    strategy: str
    replicas: int
    mesh: str
    epochs: int
    batch: int
    optimizer: str
    learning_rate: float
    seed: int
    loss: str
    device_batch: int
    local: tuple[str, ...]
    frozen: str
    out: Path
    state: Path | None
    backup: Path
    tensorboard: Path | None
    wait: float

    def __post_init__(self) -> None:
        """Raise SettingsError for what does not go together."""
        check(self.strategy, self.replicas, self.mesh)
        if not self.wait > 0:
            raise SettingsError(f"wait must be above 0 seconds, not {self.wait:g}")


@dataclass(frozen=True)
class Outcome:
    """What came of it: how it was trained, how good it is on the test data, and the version it became, 0 if none."""

    training: dict[str, Any]
    scores: dict[str, float]
    version: int


def run(wanted: Wanted, view: Epochs) -> Outcome | None:
    """Train; returns what came of it, or None in a worker other than the first, which has it.

    Raises FedfleetError for what the owner can mend. Where a worker is lost this process begins anew: it waits for all,
    and goes on from the backup.
    """
    data = datasets.whole(wanted.data, wanted.test, wanted.seed)
    start, origin = _start(wanted)
    job = job_of(wanted, data, start)
    log, engine = _log(wanted), (wanted.strategy, wanted.replicas)
    with (
        os.fdopen(os.dup(2), "wb") as terminal,
        _again(),
        together(*engine, wanted.wait, wanted.backup, job) as cluster,
        quiet(log),
    ):
        # Here and not at the top: TensorFlow takes seconds to load.
        with needs("models"):
            from fedfleet.cloud.training import central

        with nullcontext() if cluster is None else _watched(wanted, terminal):
            train = trainer(*engine, wanted.mesh, wanted.wait, cluster, job)
        target = central.Target(job.loss, wanted.device_batch, wanted.local, wanted.frozen)
        judged = len(data.test.x) > 0
        before = central.prepared(job, target, data.train, *([data.test] if judged else []))
        first = cluster is None or cluster.own == cluster.first
        if wanted.state is not None and first:
            version.require(wanted.state, before)
        trained = train(job, tell=_tell(wanted, view))
        if not first:
            return None
        after = central.finished(job, target, before, trained)
        scores = evaluator(after, data.test, data.target_scale)(after.weights) if judged else {}
    after.save(wanted.out)
    training = _training(wanted, job, trained)
    number = 0
    if wanted.state is not None:
        plan = version.plan_of(job)
        number = version.bring_in(wanted.state, before, after, plan, training, scores, origin).round
    return Outcome(training, scores, number)


def _start(wanted: Wanted) -> tuple[Compiled | None, int | None]:
    """The program to start from, and its version where it is one of the state folder that gets the new one."""
    if not wanted.start or (Path(wanted.start) / "program.json").is_file():
        return (load(wanted.start) if wanted.start else None), None
    folder, colon, which = wanted.start.rpartition(":")
    if not colon or not folder:
        raise SettingsError(f"nothing to start from at {wanted.start!r}; name a program's folder, or STATE:MODEL")
    found = registry.find(registry.versions(Path(folder)), which)
    own = wanted.state is not None and Path(folder).resolve() == wanted.state.resolve()
    return registry.exported(Path(folder), found), found.round if own else None


def job_of(wanted: Wanted, data: Dataset, start: Compiled | None) -> Job:
    """What is to be trained, with the weights of `start` to begin with if it is given."""

    def build() -> Any:
        from fedfleet.cloud.training.central import started
        from fedfleet.sim import program

        model = partial(program.build, data, wanted.data.partition(":")[0], wanted.model, wanted.seed)
        return model() if start is None else started(model, start)

    return Job(
        build,
        data.train,
        wanted.backup,
        loss=wanted.loss or (LABELS if data.train.y.ndim == 1 else TARGETS),
        epochs=wanted.epochs,
        batch=wanted.batch,
        optimizer=wanted.optimizer,
        learning_rate=wanted.learning_rate,
        seed=wanted.seed,
    )


def _log(wanted: Wanted) -> Path:
    """Where TensorFlow's own messages go."""
    require_writable(wanted.backup)
    wanted.backup.mkdir(parents=True, exist_ok=True)
    return wanted.backup / "tensorflow.log"


def _tell(wanted: Wanted, view: Epochs) -> Tell:
    """Show how far training is, and write that for TensorBoard where it is wanted."""
    if wanted.tensorboard is None:
        return view.passed
    from fedfleet.cloud.events import Events  # holds TensorFlow

    events = Events(wanted.tensorboard)

    def tell(passed: Passed) -> None:
        view.passed(passed)
        if passed.loss is not None:
            events.write(passed.epoch, {"train/loss": passed.loss, "train/steps_per_second": view.rate})

    return tell


def _training(wanted: Wanted, job: Job, trained: Trained) -> dict[str, Any]:
    """How a model was made, for its lineage."""
    return {
        "data": wanted.data,
        "examples": len(job.examples.x),
        "digest": job.digest,
        "loss": job.loss,
        "optimizer": job.optimizer,
        "learning_rate": job.learning_rate,
        "batch": job.batch,
        "epochs": job.epochs,
        "resumed": trained.resumed,
        "seed": job.seed,
        "strategy": trained.strategy,
        "started_from": wanted.start,
        "last_loss": trained.losses[-1] if trained.losses else None,
    }


@contextmanager
def _again() -> Iterator[None]:
    """Where a worker is lost, begin anew: nothing less lets TensorFlow meet the others a second time."""
    try:
        yield
    except WorkerLost as error:
        print(f"fedfleet: {error}; waiting for all workers, to go on from the backup", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, "-m", "fedfleet.cli.main", *sys.argv[1:]])


@contextmanager
def _watched(wanted: Wanted, terminal: IO[bytes]) -> Iterator[None]:
    """Bound how long TensorFlow waits for workers that have gone since the meeting; see `fedfleet.cli.watch`."""
    command = [sys.executable, "-m", "fedfleet.cli.watch", str(os.getpid()), str(wanted.wait), GONE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=terminal) as watch:
        try:
            yield
        finally:
            assert watch.stdin is not None
            watch.stdin.close()
