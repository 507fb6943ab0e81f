"""Workers of a MultiWorkerMirroredStrategy, each a process: what each has comes to the same sum on all of them."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from processes import environment

WORKER = Path(__file__).parent / "worker.py"
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def ports(count: int) -> list[str]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(server.getsockname()[1]) for server in servers]


def test_two_workers_have_the_sum_of_both() -> None:
    chosen = ports(2)
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(index), *chosen],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment() | QUIET,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    sha256 = ended[0][0].splitlines()[-1].partition(" ")[0]
    for process, (out, err) in zip(started, ended):
        assert process.returncode == 0, err
        digest, _, refusal = out.splitlines()[-1].partition(" ")
        assert digest == sha256
        assert refusal.startswith("weights move by too much to be summed exactly: 8589934592 of 4294967296")
