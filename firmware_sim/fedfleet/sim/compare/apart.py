"""Devices that train apart: a process for each. Its imports are those of each process, so they are few."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fedfleet.sim.baselines import Job, begin, train
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples


def trained(
    job: Job, parts: Sequence[Examples], doomed: Sequence[int], log: Path
) -> Iterator[tuple[int, Weights | None]]:
    """Yield each device and its weights as they come, None for one that was killed when half its steps were done.

    As many processes run as there are processors; all of them end with the generator. SettingsError where one fails.
    """
    context = get_context("spawn")
    waiting, running = list(enumerate(parts)), dict[Connection, tuple[int, SpawnProcess]]()
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                index, part = waiting.pop(0)
                own, other = context.Pipe()
                process = context.Process(target=_device, args=(job, part, other, log), daemon=True)
                process.start()
                other.close()
                running[own] = index, process
            for own in [link for link in wait(list(running)) if isinstance(link, Connection)]:
                index, process = running[own]
                weights = _said(own, index)
                if weights is None and index not in doomed:
                    own.send(None)  # it may go on
                    continue
                if weights is None:
                    process.kill()
                process.join()
                own.close()
                del running[own]
                yield index, weights
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _said(link: Connection, index: int) -> Weights | None:
    """What a device's process says: its weights in the end, None when half is done. SettingsError where it failed."""
    try:
        said: Weights | None = link.recv()
    except (EOFError, OSError):
        raise SettingsError(f"device {index} ended while it trained alone; lower the learning rate") from None
    return said


def _device(job: Job, part: Examples, link: Connection, log: Path) -> None:
    """What a device's process does: train, stop half way to say so, and say what came of it."""
    begin(log)

    def half() -> None:
        link.send(None)
        link.recv()

    link.send(train(job, [part], half))
