"""Training in a child process, so that a bad program can end the child but never the agent.

The pipe carries one request down and one answer up; a `stop` in between, or `pause` and `resume`.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from fedfleet.edge.limits import half
from fedfleet.edge.pipe import receive, send
from fedfleet.edge.trainer import Stop
from fedfleet.wire import frames
from fedfleet.wire.chunks import Assembly, join, open_offer, open_part
from fedfleet.wire.errors import FrameError, ProgramError, StoreError
from fedfleet.wire.messages import Task, Update
from fedfleet.wire.record import plain

POLL = 0.05
PATIENCE = 10.0
REASONS: dict[int, str] = {signal.SIGXCPU: ", having computed for twice the round's deadline"}


class ChildTrainer:
    """A trainer whose work happens in a process of its own, kept warm between rounds and started again when it dies."""

    def __init__(
        self,
        device: str,
        examples: Path,
        log: Path,
        memory: int | None = None,
        wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train for `device` on the store in `examples`; what the child writes to stderr goes to `log`.

        The child takes at most `memory` bytes of its own, half of the board's where none is given. While `wait()` says
        so it stands still between two batches, at no cost but its memory, and goes on where it was.
        """
        self._device = device
        self._examples = examples
        self._log = log
        self._memory = half() if memory is None else memory
        self._paused = wait
        self._process: subprocess.Popen[bytes] | None = None
        self._computes = False

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Have the child train; raises ProgramError with the signal or the log's last line when it dies."""
        process = self._running()
        request = {
            "kind": "train",
            "task": plain(task),
            "device": self._device,
            "examples": str(self._examples),
            "program": str(program),
            "weights": str(weights),
        }
        try:
            send(_pipe(process.stdin), frames.pack(request))
            if not self._wait(process, stop):
                return None
            return self._answer(_pipe(process.stdout))
        except BrokenPipeError:
            raise self._died() from None
        except FrameError:
            self.close()  # where its next frame begins is anyone's guess
            raise
        finally:
            self._computes = False

    @property
    def process(self) -> int:
        """The child's process id; 0 where there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def at_work(self) -> int:
        """The child's process id while it is to compute; 0 between two trainings, and while one is paused."""
        return self.process if self._computes else 0

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # closing flushes what a dead child no longer reads
                    pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            try:
                with self._log.open("wb") as log:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "fedfleet.edge.worker", str(self._memory)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                    )
            except OSError as error:
                raise StoreError(f"no training process with log {self._log}: {error.strerror}") from None
        return self._process

    def _wait(self, process: subprocess.Popen[bytes], stop: Stop) -> bool:
        """Wait for the first byte of an answer; False if stopped, in which case the child has ended its work."""
        paused, self._computes = False, True
        while not _readable(process, POLL):
            if stop():
                send(_pipe(process.stdin), frames.pack({"kind": "stop"}))
                self._drain(process)
                return False
            if self._paused() is not paused:
                paused, self._computes = not paused, paused
                send(_pipe(process.stdin), frames.pack({"kind": "pause" if paused else "resume"}))
        return True

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Read what the child still answers, so that the next request meets an empty pipe; or end the child."""
        if not _readable(process, PATIENCE):
            self.close()
            return
        with suppress(ProgramError):  # it failed, or died, while it was to stop anyway
            self._answer(_pipe(process.stdout))

    def _answer(self, pipe: IO[bytes]) -> Update | None:
        """Return the update that the child sends in parts; None where it stopped. Raises ProgramError, FrameError."""
        offered, assembly = None, None
        while True:
            frame = receive(pipe)
            if frame is None:
                raise self._died()
            kind = frames.unpack(frame)[0].get("kind")
            if kind == "stopped":
                return None
            if kind == "failed":
                raise ProgramError(str(frames.unpack(frame)[0].get("reason")))
            if offered is None or assembly is None:
                offered = open_offer(frame)
                assembly = Assembly(offered.blob)
                continue
            part, body = open_part(frame)
            assembly.add(part.index, body)
            if not assembly.missing():
                return join(self._device, offered, assembly.finish())

    def _died(self) -> ProgramError:
        process = self._process
        code = process.wait() if process is not None else 0
        self.close()
        tail = self._log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        how = f"by signal {-code}{REASONS.get(-code, '')}" if code < 0 else f"with exit code {code}"
        return ProgramError(f"the training process ended {how}" + (f": {tail[-1][:120]}" if tail else ""))


def _readable(process: subprocess.Popen[bytes], timeout: float) -> bool:
    return bool(select.select([_pipe(process.stdout)], [], [], timeout)[0])


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise FrameError("the training process has no pipe")
    return pipe
