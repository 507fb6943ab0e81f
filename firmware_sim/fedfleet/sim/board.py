"""One simulated board: the real agent in a process that the kernel ends together with the simulator."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from fedfleet.edge.__main__ import main

PR_SET_PDEATHSIG = 1


def leash(parent: int) -> None:
    """Have SIGTERM sent to this process when `parent` ends, however it ends; exits if that has happened already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


if __name__ == "__main__":
    leash(int(sys.argv[1]))
    main(sys.argv[2:])
