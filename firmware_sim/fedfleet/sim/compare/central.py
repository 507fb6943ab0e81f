"""All data in one place, under MirroredStrategy, in a process of its own that can be killed and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfleet.sim.compare.contender import Case, Contender, Ending, Traits
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import plain

REPLICAS = 2
TRAITS = Traits(
    name="train",
    title="distributed training in one place",
    leaves="the raw data, all of it",
    raw=True,
    whom="the cloud",
    needs=("a place that may hold all raw data", "a machine to train on"),
    scored="the one model",
    deaths=f"the process is killed half way: its {REPLICAS} replicas live and die together; then it is started again",
)
Said = dict[str, Any]


def contender() -> Contender:
    """Distributed training where all data is."""
    return Contender(TRAITS, _run)


def _run(case: Case, dying: bool) -> Ending:
    folder = case.folder / (f"{TRAITS.name}-deaths" if dying else TRAITS.name)
    case.compiled.save(folder / "start")
    files.write(folder / "wanted.json", json.dumps(plain(replace(case.wanted, baselines=False))).encode())
    curve: dict[int, float] = {}
    passes = case.wanted.plan.epochs * case.wanted.rounds.total

    def heard(said: Said) -> None:
        curve[said["epoch"]] = said["score"]
        case.tell(f"pass {said['epoch']} of {passes}")

    note, seconds = "", 0.0
    if dying:
        half = passes // 2
        seconds = _trained(folder, heard, half)
        note = f"killed after pass {half}, it ended without a model; started again, it went on from its backup"
    seconds += _trained(folder, heard, 0)
    moved = sum(part.x.nbytes + part.y.nbytes for part in case.parts)
    every = range(case.wanted.plan.epochs, passes + 1, case.wanted.plan.epochs)
    return Ending(
        ended=not dying,
        score=curve[passes],
        rounds=case.wanted.rounds.total,
        seconds=seconds,
        sent=moved,
        received=0,
        said=note,
        curve=tuple(curve.get(epoch) for epoch in every),
    )


def _trained(folder: Path, heard: Callable[[Said], None], half: int) -> float:
    """Have a process train in `folder`, and return the seconds of learning; killed after epoch `half`, 0 for never."""
    with (folder / "training.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedfleet.sim.compare.trainer", str(os.getpid()), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us
        )
    began = time.monotonic()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            said = json.loads(line)
            if "began" in said:
                began = time.monotonic()
                continue
            heard(said)
            if half and said["epoch"] == half:
                process.kill()
                process.wait()
                return time.monotonic() - began
        if process.wait():
            tail = (folder / "training.log").read_text(errors="replace").strip().splitlines()
            raise SettingsError(f"training in one place ended: {tail[-1] if tail else 'it said nothing'}")
        return time.monotonic() - began
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
