"""Processes that a benchmark starts: what they take, and that they end. Linux alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 180.0


def peak_mib(pid: int) -> float:
    """Return the largest resident memory a process has had since it was loaded."""
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM:") / 1024


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process now."""
    return _kib(Path(f"/proc/{pid}/status"), "VmRSS:") / 1024


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        direct = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return direct + [below for child in direct for below in descendants(child)]


def command(pid: int) -> str:
    """Return a process's command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait until `holds()`; raises TimeoutError that says what did not happen."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


@contextmanager
def started(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, patience: float = 10.0
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, its output in `log`, while the block lasts; it and all below it are ended by their ids."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process
    finally:
        _end(process, patience)


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask first; then kill what is left, children before they can be adopted."""
    below = descendants(process.pid)
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in below:
        if command(pid):
            os.kill(pid, 9)


def _kib(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)
