"""The processes of asynchronous training: a chief, workers, parameter servers; on other machines, or all on this one.

Workers and parameter servers hold nothing that the chief does not send them, so all that they need is their place in
TF_CONFIG. No TensorFlow.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedfleet.cloud.training.workers import Cluster, parse
from fedfleet.wire.errors import SettingsError

JOBS = ("chief", "worker", "ps")
MOST_HERE = 64  # workers
PAUSE = 0.1
ANSWER = 1.0  # seconds for a connection
PATIENCE = 5.0  # seconds for a process to end
HOST = "127.0.0.1"


def check(workers: int, text: str) -> None:
    """Raise SettingsError for a number of workers that this machine has not, or where `text`, TF_CONFIG, says it."""
    if text:
        raise SettingsError("TF_CONFIG is set, and says how many workers there are; leave --replicas out")
    if not 0 < workers <= MOST_HERE:
        raise SettingsError(f"there may be 1 to {MOST_HERE} workers on this machine, not {workers}")


def cluster(text: str) -> Cluster:
    """Return what `text`, TF_CONFIG, says of chief, workers and parameter servers; raises SettingsError."""
    found = parse(text, JOBS)
    for job in JOBS:
        if not found.jobs.get(job):
            raise SettingsError(
                f"TF_CONFIG's cluster has no {job}; asynchronous training takes a chief, workers and ps"
            )
    if len(found.jobs["chief"]) > 1:
        raise SettingsError(f"TF_CONFIG's cluster has {len(found.jobs['chief'])} chiefs; it takes one")
    return found


def absent(addresses: Sequence[str]) -> list[str]:
    """Return those of the addresses where nobody listens."""
    return [address for address in addresses if not _listens(address)]


def reach(found: Cluster, wait: float) -> None:
    """Return when all servers of a cluster listen; raises SettingsError after `wait` seconds, with their addresses."""
    missing = {address: job for job in JOBS[1:] for address in found.jobs[job]}
    end = time.monotonic() + wait
    while still := absent(list(missing)):
        missing = {address: missing[address] for address in still}
        if time.monotonic() > end:
            raise SettingsError(
                f"{', '.join(f'{job} {address}' for address, job in missing.items())} did not come within {wait:g} s; "
                "start what is missing with the same command, or wait longer (--wait)"
            )
        time.sleep(PAUSE)


@contextmanager
def loopback(workers: int, log: Path) -> Iterator[Cluster]:
    """Start `workers` workers and one parameter server on this machine, and yield the cluster as its chief has it.

    They are ended with the block. What they say is appended to `log`.
    """
    command = [sys.executable, "-m", "fedfleet.cloud.training.member"]
    ports = iter(_free_ports(workers + 2))
    jobs = {job: tuple(f"{HOST}:{next(ports)}" for _ in range(count)) for job, count in zip(JOBS, (1, workers, 1))}
    with ExitStack() as stack:
        output = stack.enter_context(log.open("ab"))
        for job in JOBS[1:]:
            for index in range(len(jobs[job])):
                place = {"cluster": jobs, "task": {"type": job, "index": index}}
                environment = os.environ | {"TF_CONFIG": json.dumps(place)}
                # in a session of its own: Ctrl-C at the terminal is the chief's, which then ends them
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                stack.callback(_end, process)
        yield Cluster(jobs, "chief", 0)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    """Ports that are free, all at once."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
