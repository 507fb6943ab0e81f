"""What trains: the strategy by its name, and the other processes that it takes. TensorFlow is loaded late."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from fedfleet.cli.terminal import needs
from fedfleet.cloud.training import cluster, grid, workers
from fedfleet.cloud.training.job import Job, Tell, Trained
from fedfleet.cloud.training.workers import Cluster
from fedfleet.models.quiet import quiet
from fedfleet.wire.errors import SettingsError

STRATEGIES = ("one", "mirrored", "workers", "servers", "mesh")
WORKERS = 2  # on this machine, where nobody says how many


class Trainer(Protocol):
    """What trains a job to its end and tells how far it is."""

    def __call__(self, job: Job, *, tell: Tell) -> Trained:
        """Return what came of it."""
        ...


def check(strategy: str, replicas: int, mesh: str) -> None:
    """Raise SettingsError for what does not go together."""
    if strategy not in STRATEGIES:
        raise SettingsError(f"unknown strategy {strategy!r}; take {', '.join(STRATEGIES)}")
    if replicas and strategy not in ("mirrored", "servers"):
        raise SettingsError(f"--replicas goes with --strategy mirrored or servers; {strategy} has none to choose")
    if replicas and strategy == "servers":
        cluster.check(replicas, os.environ.get("TF_CONFIG", ""))
    if mesh and strategy != "mesh":
        raise SettingsError(f"--mesh goes with --strategy mesh, not with {strategy}")
    if strategy == "mesh":
        grid.parse(mesh)


def served(strategy: str) -> bool:
    """Be the worker or parameter server that TF_CONFIG says, to the end; False where this process is to be neither."""
    text = os.environ.get("TF_CONFIG", "")
    if strategy != "servers" or not text:
        return False
    found = cluster.cluster(text)
    if found.job == "chief":
        return False
    print(f"{found.job} {found.index} at {found.own}, until the chief says that it is over", flush=True)
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"), needs("models"):
        from fedfleet.cloud.training.servers import serve

        serve(found)
    return True


@contextmanager
def together(strategy: str, replicas: int, wait: float, folder: Path, job: Job) -> Iterator[Cluster | None]:
    """Yield the processes that train together when all of them are there, None where this one trains alone.

    Raises SettingsError where one does not come. Those that were started here are ended with the block.
    """
    text = os.environ.get("TF_CONFIG", "")
    if strategy == "workers":
        found = workers.parse(text)
        job.share(len(found.others) + 1, "workers")
        workers.meet(found, facts(job), wait)
        yield found
    elif strategy == "servers" and text:
        found = cluster.cluster(text)
        cluster.reach(found, wait)
        yield found
    elif strategy == "servers":
        with cluster.loopback(replicas or WORKERS, folder / "servers.log") as found:
            cluster.reach(found, wait)
            yield found
    else:
        yield None


def facts(job: Job) -> str:
    """What all workers must have in common, in short."""
    return hashlib.sha256(json.dumps(job.facts()).encode()).hexdigest()


def trainer(strategy: str, replicas: int, mesh: str, wait: float, found: Cluster | None, job: Job) -> Trainer:
    """Return what trains a job by the strategy; raises SettingsError where this machine or the batch is not for it."""
    if strategy == "servers" and found is not None:
        from fedfleet.cloud.training import servers

        return partial(servers.train, under=servers.strategy(found), cluster=found, wait=wait)
    if strategy == "mesh":
        from fedfleet.cloud.training import mesh as meshes

        wanted = grid.parse(mesh)
        job.share(wanted.batch, "parts of the mesh's batch")
        return partial(meshes.train, over=meshes.mesh(wanted))
    from fedfleet.cloud.training import central
    from fedfleet.cloud.training.fit import fit

    under = central.strategy(strategy, replicas)
    job.share(under.num_replicas_in_sync)
    return partial(fit, strategy=under)
