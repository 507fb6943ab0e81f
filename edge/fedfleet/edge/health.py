"""Whether an agent is well, for what watches over a container: connected, and its loop goes round. Reads /proc alone.

`python -m fedfleet.edge.health --settings agent.toml [--pid 1]` exits with 0 where it is, else with 1 and one line.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fedfleet.edge.settings import load_agent
from fedfleet.wire.errors import FedfleetError

PROC = Path("/proc")
ESTABLISHED = "01"
GLANCE = 2.5  # seconds in which a sound agent's loop, which waits a second at most, goes round at least once


def trouble(pid: int, port: int, proc: Path = PROC, seconds: float = GLANCE) -> str:
    """Return what ails the agent in process `pid`, whose broker listens at `port`; empty: nothing."""
    try:
        if not connected(proc / str(pid), port):
            return f"no connection to port {port} of a broker"
        before = turns(proc / str(pid))
        time.sleep(seconds)
        return "" if turns(proc / str(pid)) > before else f"the agent stood still for {seconds:g} s"
    except OSError as error:
        return f"process {pid}: {error.strerror}"


def connected(process: Path, port: int) -> bool:
    """Whether the network that `process` is in has a connection to `port` of anybody."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in _lines(process / "net" / name)]
    return any(row[3] == ESTABLISHED and int(row[2].rpartition(":")[2], 16) == port for row in rows)


def turns(process: Path) -> int:
    """How often the main thread of `process` has waited for something so far."""
    status = (process / "task" / process.name / "status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:] if path.exists() else []


def main(argv: list[str] | None = None) -> None:
    """Say how the agent is."""
    parser = argparse.ArgumentParser("fedfleet.edge.health", description="Whether an agent is connected and goes on.")
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE", help="the agent's settings (TOML)")
    parser.add_argument("--pid", type=int, default=1, help="the agent's process; 1 in a container")
    arguments = parser.parse_args(argv)
    try:
        text = trouble(arguments.pid, load_agent(arguments.settings)[0].broker.port)
    except FedfleetError as error:
        text = str(error)
    print(text or "well")
    sys.exit(1 if text else 0)


if __name__ == "__main__":
    main()
