"""A process that ends another which waits too long, where that one cannot end itself.

TensorFlow waits for other machines without an end, and holds Python's lock meanwhile: no signal and no thread gets in.
Standard input is the other's: when that is closed, by the other or by its end, nothing is left to watch.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def watch(process: int, seconds: float, text: str) -> None:
    """Say `text` and end `process` unless standard input is closed within so many seconds."""
    if not select.select([sys.stdin], [], [], seconds)[0]:
        print(text, file=sys.stderr, flush=True)
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the other
    watch(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
