"""Whether an agent is well: a real connection, a loop that goes round, and one that stands still."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import environment, until

from fedfleet.edge import health

AGENT = """
import socket, sys, time
if len(sys.argv) > 1:
    link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def agent(port: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", AGENT, str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def test_one_that_is_connected_and_goes_round_is_well(agent: subprocess.Popen[bytes], port: int) -> None:
    assert health.trouble(agent.pid, port, seconds=0.5) == ""


def test_one_that_stands_still_is_not(agent: subprocess.Popen[bytes], port: int) -> None:
    os.kill(agent.pid, signal.SIGSTOP)
    assert until(lambda: " T " in Path(f"/proc/{agent.pid}/stat").read_text())
    assert health.trouble(agent.pid, port, seconds=0.5) == "the agent stood still for 0.5 s"
    os.kill(agent.pid, signal.SIGCONT)
    assert health.trouble(agent.pid, port, seconds=0.5) == ""


def test_one_without_a_broker_is_not(agent: subprocess.Popen[bytes], port: int) -> None:
    agent.kill()
    agent.wait()
    assert health.trouble(os.getpid(), port, seconds=0.1) == f"no connection to port {port} of a broker"


def test_one_that_is_not_there_is_not() -> None:
    assert health.trouble(2**22 + 1, 1883) == "no connection to port 1883 of a broker"


def test_the_command_says_it_in_one_line_and_an_exit_code(
    agent: subprocess.Popen[bytes], port: int, tmp_path: Path
) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text(f'device = "d0"\nfleet = "pumps"\n\n[broker]\nport = {port}\n')
    command = [sys.executable, "-m", "fedfleet.edge.health", "--settings"]
    for file, pid, code, said in (
        (settings, agent.pid, 0, "well\n"),
        (tmp_path / "none.toml", agent.pid, 1, f"{tmp_path}/none.toml: no such settings file\n"),
    ):
        found = subprocess.run(
            [*command, str(file), "--pid", str(pid)], capture_output=True, text=True, env=environment(), check=False
        )
        assert (found.returncode, found.stdout, found.stderr) == (code, said, "")
