"""What federating is measured against: each device alone, and all data in one place; same program, same passes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedfleet.edge.data import batches
from fedfleet.edge.local import fit
from fedfleet.edge.runtime import Program
from fedfleet.wire.codecs import Weights
from fedfleet.wire.examples import Examples, permutation, take
from fedfleet.wire.messages import Plan


class Job(NamedTuple):
    """Training in one place: the examples, and the plan of one round as often as there were rounds."""

    program: Path
    digest: str
    weights: Weights
    plan: Plan
    rounds: int
    seed: int


def train(job: Job, parts: Sequence[Examples], half: Callable[[], None] = lambda: None) -> Weights:
    """Return the weights after training on all `parts` together for the passes of `job.rounds` rounds.

    `half` is called once, before the first step of the second half.
    """
    program = Program(job.program, job.digest)
    program.set(job.weights)
    plan = replace(job.plan, proximal=0.0, time_budget=0.0)
    joined = Examples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
    shuffled = take(joined, permutation(len(joined.x), "baseline", job.seed))
    steps = plan.steps * job.rounds or None
    feed = batches([shuffled], program.batch, job.seed, epochs=plan.epochs * job.rounds, steps=steps)
    total = steps or -(-len(joined.x) // program.batch) * plan.epochs * job.rounds
    done = count()

    def stop() -> bool:
        if next(done) == total // 2:
            half()
        return False

    fit(program, plan, feed, stop, job.seed)
    return program.get()


def alone_and_central(job: Job, parts: Sequence[Examples], log: Path, workers: int = 2) -> Iterator[Weights]:
    """Yield the weights of all data in one place, then those of each device alone, in order of the devices.

    What the runtime writes to standard error goes to `log`.
    """
    places = [(job, parts), *((job, [part]) for part in parts)]
    # Spawned, not forked: the parent has threads, and a device's process has no TensorFlow in it.
    with get_context("spawn").Pool(workers, initializer=begin, initargs=(log,)) as pool:
        yield from pool.imap(_train, places)


def _train(place: tuple[Job, Sequence[Examples]]) -> Weights:
    return train(*place)


def begin(log: Path) -> None:
    """Leave Ctrl-C to the parent, which ends the pool, and the terminal too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 2)
    os.close(target)
