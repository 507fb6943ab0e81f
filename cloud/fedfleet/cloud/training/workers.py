"""The machines that train together: who they are, from TF_CONFIG, and a meeting of all before TensorFlow begins.

TensorFlow, left alone, waits for hours for a worker that never comes, and names nobody. So each worker listens at its
own address first and calls all others: a line goes each way that says who is there, for which job. When it has met all,
it leaves the address to TensorFlow. Whoever has met all needs no answer from anyone any more, so none waits in vain.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

from fedfleet.wire.errors import SettingsError

ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})")
MAX_LINE = 4096
MOST = 1000  # machines
PAUSE = 0.1
PATIENCE = 5.0  # seconds for one exchange
HOW = 'write it as {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """What TF_CONFIG says: for each job the addresses of its tasks, and which of them this process is."""

    jobs: Mapping[str, tuple[str, ...]]
    job: str
    index: int

    @property
    def own(self) -> str:
        """This process's own address."""
        return self.jobs[self.job][self.index]

    @property
    def first(self) -> str:
        """The address of the one that keeps backups and has the result: the chief, or else the first worker."""
        return (self.jobs.get("chief") or self.jobs["worker"])[0]

    @property
    def others(self) -> tuple[str, ...]:
        """The addresses of all others, in the order of TF_CONFIG."""
        return tuple(each for addresses in self.jobs.values() for each in addresses if each != self.own)


def parse(text: str, known: tuple[str, ...] = ("chief", "worker")) -> Cluster:
    """Return what `text`, the value of TF_CONFIG, says; jobs are those `known`. Raises SettingsError."""
    if not text.strip():
        raise SettingsError(f"TF_CONFIG is not set, and says who trains together; {HOW}")
    try:
        table = json.loads(text)
        jobs = {name: tuple(addresses) for name, addresses in table["cluster"].items()}
        job, index = table["task"]["type"], table["task"]["index"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingsError(f"TF_CONFIG is malformed ({type(error).__name__}: {error}); {HOW}") from None
    _require(jobs, job, index, known)
    return Cluster(jobs, job, index)


def _require(jobs: dict[Any, tuple[Any, ...]], job: Any, index: Any, known: tuple[str, ...]) -> None:
    """Raise SettingsError for what TF_CONFIG must not say."""
    every = [each for addresses in jobs.values() for each in addresses]
    unknown = [name for name in jobs if name not in known]
    if unknown:
        raise SettingsError(f"TF_CONFIG has a job {unknown[0]!r}; this strategy knows {' and '.join(known)}")
    for each in every:
        match = ADDRESS.fullmatch(each) if isinstance(each, str) else None
        if match is None or not 0 < int(match.group(1)) < 2**16:
            raise SettingsError(f"TF_CONFIG has an address {each!r}; write it as host:port")
    if len(set(every)) < len(every) or len(every) > MOST:
        raise SettingsError(f"TF_CONFIG must name at most {MOST} tasks, each with an address of its own")
    if not isinstance(job, str) or job not in jobs:
        raise SettingsError(f"TF_CONFIG's task is of type {job!r}, which its cluster lacks; {HOW}")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(jobs[job]):
        raise SettingsError(f"TF_CONFIG's task has index {index!r}; its cluster has 0 to {len(jobs[job]) - 1} of {job}")


def meet(cluster: Cluster, job: str, wait: float) -> None:
    """Return when all of `cluster` are there, with the same `job`; SettingsError after `wait` seconds, with names.

    Raises SettingsError too where one has another job, or where this process cannot have its own address.
    """
    listener = _listen(cluster.own)
    meeting = _Meeting(cluster, job)
    try:
        host = Thread(target=meeting.receive, args=(listener,), daemon=True)
        host.start()
        end = time.monotonic() + wait
        while missing := meeting.missing():
            if time.monotonic() >= end:
                raise SettingsError(
                    f"{', '.join(missing)} did not come within {wait:g} s; start what is missing with the same "
                    "command, or wait longer (--wait)"
                )
            meeting.call(missing, end)
            time.sleep(PAUSE)
    finally:
        meeting.over = True
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        listener.close()
        host.join()


class _Meeting:
    """Who has been met; the thread that receives and the one that calls note it together."""

    def __init__(self, cluster: Cluster, job: str) -> None:
        self._cluster, self._job = cluster, job
        self._line = json.dumps({"from": cluster.own, "job": job}).encode() + b"\n"
        self._met = dict[str, str]()
        self._lock = Lock()
        self.over = False

    def missing(self) -> list[str]:
        """Who has not been met yet; raises SettingsError where one has another job."""
        with self._lock:
            for address, job in self._met.items():
                if job != self._job:
                    raise SettingsError(
                        f"{address} trains another job; start all workers with the same model, data and options"
                    )
            return [each for each in self._cluster.others if each not in self._met]

    def call(self, missing: list[str], end: float) -> None:
        """Call each of the `missing` once."""
        for each in missing:
            host, _, port = each.rpartition(":")
            left = max(min(PATIENCE, end - time.monotonic()), PAUSE)
            with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), left) as link:
                self._exchange(link, first=True)

    def receive(self, listener: socket.socket) -> None:
        """Answer who calls, until the meeting is over."""
        while not self.over:
            with suppress(OSError):
                link, _ = listener.accept()
                with link:
                    link.settimeout(PATIENCE)
                    self._exchange(link, first=False)

    def _exchange(self, link: socket.socket, *, first: bool) -> None:
        """A line each way, the caller's `first`, whose end then says that it has the other."""
        if first:
            link.sendall(self._line)
        found = _line(link)
        if found is None or found[0] not in self._cluster.others:
            return
        if first:
            link.sendall(b"\n")
        else:
            link.sendall(self._line)
            if link.recv(1) != b"\n":
                return
        with self._lock:
            self._met[found[0]] = found[1]


def _line(link: socket.socket) -> tuple[str, str] | None:
    """Who is at the other end, and with which job; None for what is none of us."""
    data = b""
    while not data.endswith(b"\n") and len(data) < MAX_LINE:
        more = link.recv(MAX_LINE - len(data))
        if not more:
            return None
        data += more
    try:
        table = json.loads(data)
        return str(table["from"]), str(table["job"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        return socket.create_server(("", int(port)), family=family, reuse_port=False)
    except OSError as error:
        raise SettingsError(
            f"port {port}, this worker's own in TF_CONFIG, cannot be had ({error.strerror}); is it running already?"
        ) from None
