"""The process that has TensorFlow Federated, from our side: started when it is first needed, ended with all below it.

TFF starts a worker that outlives Python and holds what it inherits open. So the process leads a group of its own, which
is killed as one: when we close it, when whoever uses it is gone, or, by the process itself, when we have ended.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Timer
from typing import IO, Any

from fedfleet.cloud.tff.pipe import Array, Message, receive, send
from fedfleet.wire.errors import SettingsError

log = logging.getLogger("fedfleet.tff")
ALONE = "fedfleet.cloud.tff.alone"
LAST_WORDS = 2000
EXPOSED = "TensorFlow Federated's worker takes computations of anyone who reaches it: keep others out by a firewall"


class Child:
    """A process that runs `python -m MODULE` and answers what it is asked, one question at a time."""

    def __init__(self, module: str, log: Path | None = None) -> None:
        """Start nothing yet. What the process writes to standard error is appended to `log`, or kept for its end."""
        self._module = module
        self._log = log
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._written: IO[bytes] | None = None
        self._end: weakref.finalize[Any, Any] | None = None
        self._late = self._warned = False

    @property
    def process(self) -> int:
        """The process id, which is its group's too; 0 where there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> subprocess.Popen[bytes]:
        """Return the process, started now if it is not there."""
        if self._process is not None and not _over(self._process):
            return self._process
        self.close()
        self._written = self._log.open("a+b") if self._log else tempfile.TemporaryFile()  # noqa: SIM115 - for its life
        self._process = subprocess.Popen(
            [sys.executable, "-m", ALONE, self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._written,
            start_new_session=True,  # Ctrl-C is for us: we end it, and what it has started
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
        )
        self._end = weakref.finalize(self, _ended, self._process, self._written)
        return self._process

    def ask(
        self, what: str, within: float, request: dict[str, Any], arrays: Iterable[Array] = (), count: int = 0
    ) -> Message:
        """Return its answer to `request` and the `count` arrays, for `what`, which errors begin with.

        Raises SettingsError for what it refuses, for any error of TensorFlow Federated, and where it ends, or takes
        more than `within` seconds.
        """
        with self._lock, self._alive(within) as process:
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError):  # it has ended: what it said before is still to be read
                send(process.stdin, request, arrays, count)
            answer = receive(process.stdout)
            if answer is None:
                raise SettingsError(f"{what}: {self._why(process, within)}")
        if reason := answer[0].get("failed"):
            self.close()  # it is about to end
            raise SettingsError(f"{what}: TensorFlow Federated failed: {reason}")
        if answer[0].get("open") and not self._warned:
            self._warned = True
            log.warning(EXPOSED)
        if reason := answer[0].get("refused"):
            raise SettingsError(f"{what}: {reason}")
        return answer

    def close(self) -> None:
        """End the process and all that it has started; the next question starts another."""
        self._process = None
        if self._end is not None:
            self._end()

    @contextmanager
    def _alive(self, within: float) -> Iterator[subprocess.Popen[bytes]]:
        """Give the process for one question; it is ended where that is cut off, or takes more than `within` seconds."""
        process, whole = self.start(), False
        self._late = False
        timer = Timer(within, self._expire, [process])
        timer.daemon = True  # Ctrl-C may come before it can be cancelled
        try:
            timer.start()
            yield process
            whole = True
        finally:
            timer.cancel()
            if not whole:
                self.close()

    def _expire(self, process: subprocess.Popen[bytes]) -> None:
        self._late = True
        _killed(process)

    def _why(self, process: subprocess.Popen[bytes], within: float) -> str:
        """Why there is no answer."""
        _over(process, wait=True)
        _killed(process)
        code = process.wait()
        if self._late:
            return f"TensorFlow Federated had no answer within {within:g} s"
        assert self._written is not None
        self._written.seek(0)
        said = self._written.read()[-LAST_WORDS:].decode(errors="replace").strip().splitlines()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"the process with TensorFlow Federated ended {how}" + (f": {said[-1][:200]}" if said else "")


def _over(process: subprocess.Popen[bytes], *, wait: bool = False) -> bool:
    """Whether the process has ended; it is left to be waited for, so that its group keeps its number."""
    flags = os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)
    return process.returncode is not None or os.waitid(os.P_PID, process.pid, flags) is not None


def _killed(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _ended(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    _killed(process)
    process.wait()
    for pipe in (process.stdin, process.stdout, log):
        if pipe is not None:
            with suppress(BrokenPipeError):  # closing flushes what nobody reads any more
                pipe.close()
