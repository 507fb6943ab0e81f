"""What a training process may take of its board; it sets these itself, before it reads a program.

A damaged program can ask for any amount of memory, and never come to an end: nothing of that may reach what else runs
on the board, the agent first of all.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

from fedfleet.edge import board
from fedfleet.edge.guards import ROOT

LONGEST = 2**31


def half() -> int:
    """Return half of the board's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def hold(memory: int) -> None:
    """Keep this process below `memory` bytes of its own, without core files; where memory is short, it goes first.

    To be called when its libraries are loaded: what they have reserved and never touched comes on top.
    """
    # not RLIMIT_AS: libraries reserve far more addresses than they ever use
    _lower(resource.RLIMIT_DATA, memory + reserved())
    _lower(resource.RLIMIT_CORE, 0)
    with suppress(OSError):  # a container without it
        Path("/proc/self/oom_score_adj").write_text("1000")


def reserved() -> int:
    """Return the bytes that count as this process's data, and that it has not touched."""
    return int(board.reserved(ROOT, os.getpid()) * board.MIB)


def compute(seconds: float) -> None:
    """Let this process compute for `seconds` from now on; then the kernel ends it by SIGXCPU."""
    _lower(resource.RLIMIT_CPU, int(min(time.process_time() + seconds, LONGEST)) + 1)


def _lower(kind: int, most: int) -> None:
    """Set the bound that can be raised again, below the one that cannot."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
