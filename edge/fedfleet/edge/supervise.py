"""A process that is started again when it dies, and ends with us: what it loads costs the agent no memory."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fedfleet.edge.stopping import Stopping

log = logging.getLogger("fedfleet.agent")
PAUSES = (1.0, 300.0)  # seconds before it is started again: at first, at most
HELD = 60.0  # seconds after which a life was long enough for the first pause again
AGAIN = 3600.0  # seconds after which a process that had done its work is started for more
POLL, PATIENCE = 0.5, 5.0


@contextmanager
def kept(name: str, command: Sequence[str], stopping: Stopping) -> Iterator[None]:
    """Keep `command` running under the name `name` until `stopping` is set or the block ends.

    Its stdin ends when this process does, however that happens.
    """
    thread = threading.Thread(target=keep, args=(name, command, stopping), name="collector")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def keep(name: str, command: Sequence[str], stopping: Stopping) -> None:
    """Run `command` again and again: soon after a failure and later with each, in an hour after exit code 0."""
    pause = PAUSES[0]
    while not stopping.is_set():
        began = time.monotonic()
        ended = _live(name, command, stopping)
        if stopping.is_set():
            return
        pause = PAUSES[0] if time.monotonic() - began > HELD else pause
        if ended:
            log.warning("%s; starting it again in %g s", ended, pause)
        stopping.wait(pause if ended else AGAIN)
        pause = min(2 * pause, PAUSES[1]) if ended else PAUSES[0]


def _live(name: str, command: Sequence[str], stopping: Stopping) -> str:
    """One life of the process; how it ended by itself, empty where it had done its work or we have ended it."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
    except OSError as error:
        return f"{name} cannot be started: {error.strerror}"
    with process:
        while process.poll() is None and not stopping.wait(POLL):
            pass
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            return ""
    code = process.returncode
    return f"{name} ended " + (f"by signal {-code}" if code < 0 else f"with exit code {code}") if code else ""
