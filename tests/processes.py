"""What the kernel says of processes: who is alive, who is whose child, what is loaded into them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("edge", "cloud", "models", "firmware_sim")


def environment() -> dict[str, str]:
    """Return the environment in which a fresh interpreter finds the rooms, installed or not."""
    return {**os.environ, "PYTHONPATH": ":".join(str(ROOT / room) for room in ROOMS), "COLUMNS": "200"}


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the direct children of a process, whichever of its threads has started them."""
    found = list[int]()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that ends meanwhile hides no others
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def loaded(pid: int) -> str:
    """Return the files mapped into a process."""
    return Path(f"/proc/{pid}/maps").read_text()


def until(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait until `holds()`, at most so long; return whether it does."""
    end = time.monotonic() + seconds
    while not (done := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return done
