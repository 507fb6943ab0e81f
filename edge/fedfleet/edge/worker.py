"""The child's half: `python -m fedfleet.edge.worker BYTES` reads requests from stdin until it ends, answers on stdout.

BYTES is the memory of its own that it may take.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import IO, Any

from fedfleet.edge import limits
from fedfleet.edge.local import LocalTrainer
from fedfleet.edge.pipe import receive, send
from fedfleet.wire import frames
from fedfleet.wire.chunks import split
from fedfleet.wire.errors import FedfleetError, FrameError
from fedfleet.wire.messages import Task, seen
from fedfleet.wire.record import Mismatch, build


def main() -> None:
    """Serve until the parent closes the pipe."""
    limits.hold(int(sys.argv[1]))
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a native library prints must not land between our frames
    trainers: dict[tuple[str, str], LocalTrainer] = {}
    while (frame := receive(requests)) is not None:
        header, _ = frames.unpack(frame)
        if header.get("kind") == "train":  # what else came after its answer asks for nothing
            _serve(header, trainers, requests, answers)


def _serve(
    header: dict[str, Any], trainers: dict[tuple[str, str], LocalTrainer], ask: IO[bytes], say: IO[bytes]
) -> None:
    try:
        task, device, examples, program, weights = _request(header)
        limits.compute(2 * task.deadline)  # by then its update has long been of no use
        trainer = trainers.setdefault((device, examples), LocalTrainer(device, Path(examples)))
        update = trainer.train(task, Path(program), Path(weights), lambda: _told(ask) == "stop")
    except FedfleetError as error:
        send(say, frames.pack({"kind": "failed", "reason": seen(str(error))}))
        return
    except MemoryError:
        trainers.clear()  # what was half made goes, and its memory with it
        reason = f"training needs more than the {int(sys.argv[1]) // 2**20} MiB of memory that it may take here"
        send(say, frames.pack({"kind": "failed", "reason": reason}))
        return
    for part in split(update) if update else [frames.pack({"kind": "stopped"})]:
        send(say, part)


def _told(ask: IO[bytes]) -> str:
    """Return `stop` if the parent says so or has gone, else nothing; told to pause, wait right here for more."""
    told = ""
    while told != "stop" and select.select([ask], [], [], None if told == "pause" else 0)[0]:
        frame = receive(ask)
        told = str(frames.unpack(frame)[0].get("kind")) if frame else "stop"
    return told


def _request(header: dict[str, Any]) -> tuple[Task, str, str, str, str]:
    try:
        task = build(Task, header["task"], strict=True)
        return task, header["device"], header["examples"], header["program"], header["weights"]
    except (KeyError, Mismatch) as error:
        raise FrameError(f"request: {error}") from None


if __name__ == "__main__":
    main()
