"""`fedfleet train --strategy servers` and `--strategy mesh` at the terminal: by one command a process, or all here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import run
from processes import alive, descendants, environment, until

from fedfleet.models.compiled import load

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
JOBS = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}


def config(jobs: dict[str, list[str]], job: str = "chief", index: int = 0) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


class Commands:
    """`fedfleet train` in processes of their own; whatever happens, none is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *options: str, place: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fedfleet.cli.main", "train", *options]
        process = subprocess.Popen(
            command, env=environment() | QUIET | {"TF_CONFIG": place}, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            with process:
                process.kill()


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    found = Commands(tmp_path)
    try:
        yield found
    finally:
        found.end()


def free(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=150)
    assert process.returncode == code, err[-2000:]
    return out if code == 0 else err


def test_a_command_for_each_process(commands: Commands, tmp_path: Path) -> None:
    chief, worker, server = free(3)
    jobs = {"chief": [chief], "worker": [worker], "ps": [server]}
    others = [commands.start("--strategy", "servers", place=config(jobs, job)) for job in ("worker", "ps")]
    first = commands.start("--strategy", "servers", "--epochs", "8", "--json", "facts.json", place=config(jobs))
    assert ended(first).splitlines()[-1].startswith("result epochs=8 ")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["training"]["strategy"] == "ParameterServerStrategy, 1 worker, 1 server"
    assert facts["scores"]["accuracy"] > 0.85
    load(tmp_path / "build" / "trained")
    for process, text in zip(others, (f"worker 0 at {worker}, until", f"ps 0 at {server}, until")):
        said = ended(process)
        assert text in said and said.splitlines()[-1] == "done: the chief has the result"


def test_a_whole_cluster_here_begins_anew_and_leaves_nobody_behind(commands: Commands, tmp_path: Path) -> None:
    process = commands.start("--strategy", "servers", "--replicas", "1", "--epochs", "100000")
    newest = tmp_path / "build" / "trained" / "backup" / "checkpoint"
    assert until(newest.is_file, 120)
    before = descendants(process.pid)
    assert len(before) == 2
    os.kill(max(before), signal.SIGKILL)  # the parameter server, which is started last
    assert until(lambda: len(found := descendants(process.pid)) == 2 and not {*found} & {*before}, 60)
    assert not any(map(alive, before))
    started, lost = descendants(process.pid), newest.stat().st_mtime
    assert until(lambda: newest.stat().st_mtime > lost, 120)
    process.send_signal(signal.SIGINT)
    said = ended(process, 130)
    assert "a parameter server was lost" in said and "the same command goes on from build/trained/backup" in said
    assert until(lambda: not any(map(alive, started)), 20)


def test_a_server_is_ended_by_ctrl_c(commands: Commands) -> None:
    chief, worker, server = free(3)
    jobs = {"chief": [chief], "worker": [worker], "ps": [server]}
    process = commands.start("--strategy", "servers", place=config(jobs, "ps"))
    assert until(lambda: listening(server), 60)
    again = commands.start("--strategy", "servers", place=config(jobs, "ps"))
    assert f"{server}, this process's own address, cannot be had; is it running already?" in ended(again, 2)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in ended(process, 130)


def test_a_model_in_parts_becomes_a_program(commands: Commands, tmp_path: Path) -> None:
    options = ("--strategy", "mesh", "--mesh", "batch=2,model=2", "--epochs", "8", "--json", "facts.json")
    said = ended(commands.start(*options))
    assert "trained by DTensor, mesh batch=2,model=2: 8 of 8 weights in 2 parts" in said
    assert json.loads((tmp_path / "facts.json").read_text())["scores"]["accuracy"] > 0.85
    assert load(tmp_path / "build" / "trained").digest


@pytest.mark.parametrize(
    ("options", "place", "says"),
    [
        (("--strategy", "mesh"), "", "'' is no mesh; write it as batch=2,model=2"),
        (("--mesh", "batch=2,model=2"), "", "--mesh goes with --strategy mesh, not with mirrored"),
        (
            ("--strategy", "mesh", "--mesh", "batch=5,model=1"),
            "",
            "a batch of 64 does not divide by 5 parts of the mesh's",
        ),
        (
            ("--strategy", "mesh", "--mesh", "batch=64,model=2"),
            "",
            "mesh batch=64,model=2 is of 128 devices: 128 replicas",
        ),
        (("--strategy", "mesh", "--replicas", "2"), "", "--replicas goes with --strategy mirrored or servers"),
        (("--strategy", "servers", "--replicas", "-1"), "", "1 to 64 workers on this machine, not -1"),
        (("--strategy", "servers", "--replicas", "2"), config(JOBS), "TF_CONFIG is set, and says how many workers"),
        (("--strategy", "servers"), "{", "TF_CONFIG is malformed"),
        (("--strategy", "servers"), config(JOBS | {"ps": []}), "TF_CONFIG's cluster has no ps"),
        (("--strategy", "workers"), config(JOBS), "TF_CONFIG has a job 'ps'; this strategy knows chief and worker"),
    ],
)
def test_mistakes_cost_one_line(
    options: tuple[str, ...], place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_CONFIG", place)
    said = run("train", *options)
    assert said.startswith("refused: ") and says in said and len(said.splitlines()) == 1


def test_who_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chief, worker, server = free(3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_CONFIG", config({"chief": [chief], "worker": [worker], "ps": [server]}))
    said = run("train", "--strategy", "servers", "--wait", "0.5")
    assert said.startswith(f"refused: worker {worker}, ps {server} did not come within 0.5 s; start what is missing")
