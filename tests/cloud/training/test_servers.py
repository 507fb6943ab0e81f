"""Asynchronous training over four processes on this machine, of which one or the other is killed and comes again."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import environment, until

CHIEF = Path(__file__).with_name("served.py")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
Process = subprocess.Popen[str]


class Cluster:
    """A chief, two workers and a parameter server, started and killed one by one."""

    def __init__(self, folder: Path, addresses: list[str]) -> None:
        self.folder = folder
        self.jobs = {"chief": addresses[:1], "worker": addresses[1:3], "ps": addresses[3:]}
        self.started: list[Process] = []
        self.now: dict[str, Process] = {}

    def start(self, job: str, index: int = 0, epochs: int = 4, wait: float = 100) -> Process:
        config = {"TF_CONFIG": json.dumps({"cluster": self.jobs, "task": {"type": job, "index": index}})}
        config["WAIT"] = str(wait)
        command = (
            [str(CHIEF), str(self.folder), str(epochs)] if job == "chief" else ["-m", "fedfleet.cloud.training.member"]
        )
        with (self.folder / f"{job}{index}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], env=environment() | QUIET | config,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.started.append(process)
        self.now[f"{job}{index}"] = process
        return process

    def start_servers(self) -> None:
        for job, index in (("worker", 0), ("worker", 1), ("ps", 0)):
            self.start(job, index)

    def kill(self, name: str) -> None:
        self.now[name].kill()
        assert self.now[name].wait(20) == -signal.SIGKILL

    def listening(self, job: str, index: int) -> bool:
        host, _, port = self.jobs[job][index].rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def logged(self, text: str) -> bool:
        return text in (self.folder / "chief0.log").read_text()

    def end(self) -> None:
        for process in self.started:
            with process:
                process.kill()


@pytest.fixture
def cluster(tmp_path: Path, free: Callable[[int], list[str]]) -> Iterator[Cluster]:
    found = Cluster(tmp_path, free(4))
    try:
        yield found
    finally:
        found.end()


def said(chief: Process, word: str) -> str:
    """The rest of the next line that begins with `word`."""
    assert chief.stdout is not None
    for line in chief.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise AssertionError(f"the chief ended and never said {word!r}")


def go(chief: Process, lines: int = 1) -> None:
    assert chief.stdin is not None
    chief.stdin.write("\n" * lines)
    chief.stdin.flush()


def result(chief: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(chief, "done"))
    assert chief.wait(20) == 0
    return found


def test_four_processes_train_and_end(cluster: Cluster) -> None:
    cluster.start_servers()
    chief = cluster.start("chief")
    go(chief, 4)
    found = result(chief)
    assert found["strategy"] == "ParameterServerStrategy, 2 workers, 1 server"
    assert found["resumed"] == 0 and len(found["losses"]) == 4
    assert found["losses"][3] < found["losses"][0] / 2
    assert found["accuracy"] > 0.9
    assert {name: process.wait(20) for name, process in cluster.now.items()} == dict.fromkeys(cluster.now, 0)


def test_a_killed_worker_is_done_without_and_joins_again(cluster: Cluster) -> None:
    """In the end the worker that came again is the only one, so the run would not finish without it."""
    cluster.start_servers()
    chief = cluster.start("chief", epochs=5)
    said(chief, "epoch 1")
    go(chief)
    cluster.kill("worker1")
    said(chief, "epoch 2")
    go(chief)
    said(chief, "epoch 3")
    assert cluster.logged("task:1 failed with")
    cluster.start("worker", 1)
    assert until(lambda: cluster.logged("task:1 has been recovered"), 60)
    cluster.kill("worker0")
    go(chief, 3)
    found = result(chief)
    assert found["accuracy"] > 0.9 and len(found["losses"]) == 5
    assert cluster.now["worker1"].wait(20) == cluster.now["ps0"].wait(20) == 0


def test_who_waits_for_workers_in_vain_says_for_whom(cluster: Cluster) -> None:
    cluster.start_servers()
    chief = cluster.start("chief", wait=3)
    said(chief, "epoch 1")
    cluster.kill("worker0")
    cluster.kill("worker1")
    go(chief)
    addresses = ", ".join(cluster.jobs["worker"])
    assert said(chief, "refused") == f"no worker has taken a step for 3 s, without {addresses}"


def test_a_killed_chief_goes_on_from_its_backup(cluster: Cluster) -> None:
    cluster.start_servers()
    chief = cluster.start("chief")
    said(chief, "epoch 1")
    go(chief)
    said(chief, "epoch 2")
    go(chief)
    cluster.kill("chief0")
    again = cluster.start("chief")
    go(again, 4)
    found = result(again)
    assert found["resumed"] in (2, 3) and len(found["losses"]) == 4 - found["resumed"]
    assert found["accuracy"] > 0.9
    assert [cluster.now[name].wait(20) for name in ("worker0", "worker1", "ps0")] == [0, 0, 0]


def test_a_lost_parameter_server_is_named(cluster: Cluster) -> None:
    cluster.start_servers()
    chief = cluster.start("chief")
    said(chief, "epoch 1")
    cluster.kill("ps0")
    go(chief)
    assert said(chief, "refused").startswith("a parameter server was lost (")
    assert chief.wait(20) == 2


def test_a_server_ends_with_who_started_it(cluster: Cluster) -> None:
    worker = cluster.start("worker", 0)
    assert until(lambda: cluster.listening("worker", 0), 60)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(20) == 1
