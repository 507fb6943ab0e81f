"""Programs that were cut off or changed, with digests that fit: each trains, or is refused in words; the agent stays up.

CORRUPT says how many; `make test-corrupt` takes 1,000, under both runtimes. tflite-runtime 2.14 looks at nothing before
it follows what a program says, so about half of them end its process, and some ask for all the memory there is.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from federations import never

from fedfleet.edge.child import ChildTrainer
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.messages import Blob, Task

COUNT = int(os.environ.get("CORRUPT", "40"))
PATIENCE, BOUND = 10.0, 30.0
WORDS = (0, 1, 1_000_000, 2**31 - 1, 2**31, 2**32 - 1)
pytestmark = pytest.mark.usefixtures("rooms")


def flipped(whole: bytes, dice: random.Random, count: int) -> bytes:
    content = bytearray(whole)
    for _ in range(count):
        content[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
    return bytes(content)


def over(whole: bytes, at: int, patch: bytes) -> bytes:
    return (whole[:at] + patch + whole[at + len(patch) :])[: len(whole)]


def damaged(whole: bytes, number: int) -> bytes:
    """The program cut off, with bits flipped, or with noise, a number or zeros written over a part."""
    dice = random.Random(number)
    at = dice.randrange(len(whole))
    match number % 6:
        case 0:
            return whole[: max(at, 1)]
        case 1:
            return flipped(whole, dice, 1)
        case 2:
            return flipped(whole, dice, dice.randrange(2, 50))
        case 3:
            return over(whole, at, dice.randbytes(dice.randrange(1, 64)))
        case 4:
            return over(whole, at // 4 * 4, dice.choice(WORDS).to_bytes(4, "little"))
        case _:
            return over(whole, at, bytes(dice.randrange(1, len(whole) // 4)))


def end(child: ChildTrainer, task: Task, program: Path, weights: Path) -> str:
    """What became of a task: trained, stopped because it took too long, or the reason."""
    content = program.read_bytes()
    began = time.monotonic()
    lie = replace(task, program=Blob.of(content))
    try:
        update = child.train(lie, program, weights, lambda: time.monotonic() > began + PATIENCE)
    except FedfleetError as error:
        return str(error)
    finally:
        assert time.monotonic() - began < BOUND
    return "trained" if update else "stopped"


def test_no_damaged_program_takes_the_agent_down(
    child: ChildTrainer, task: Task, blobs: tuple[Path, Path], tmp_path: Path
) -> None:
    whole, ends = blobs[0].read_bytes(), []
    for number in range(COUNT):
        (tmp_path / "program").write_bytes(damaged(whole, number))
        ends.append(end(child, task, tmp_path / "program", blobs[1]))
    assert len(ends) == COUNT
    assert not [reason for reason in ends if not reason or "\n" in reason or "Traceback" in reason]
    assert not [reason for reason in ends if "exit code" in reason]  # an error of Python's that nobody thought of
    assert "trained" in ends
    assert sum("does not load" in reason or "ended by signal" in reason for reason in ends) > COUNT / 3
    assert child.train(task, *blobs, never) is not None
