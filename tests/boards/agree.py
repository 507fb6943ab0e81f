"""What several boards made of the same programs, side by side, and how far apart they are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

TOLERANCE = 1e-5
PATIENCE = 300.0
Found = Mapping[str, Any]


class Failed(Exception):
    """A process that did not do its part, in one line."""


def report(command: Sequence[str], environment: Mapping[str, str]) -> Found:
    """Return what `trained.py` says, run by `command`; raises Failed."""
    return json.loads(said(command, environment))  # type: ignore[no-any-return]


def said(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the last line that `command` prints; raises Failed with its last words where it fails."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, env=dict(environment), timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} had not ended after {PATIENCE:g} s") from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise Failed(f"{command[0]} ended with exit code {ended.returncode}: {last[:200]}")
    return ended.stdout.splitlines()[-1]


def apart(one: Found, other: Found) -> dict[str, float]:
    """The largest relative difference between the losses of two boards, by program."""
    return {
        name: max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(losses, other["losses"][name], strict=True))
        for name, losses in one["losses"].items()
    }


def wrong(boards: Mapping[str, Found], tolerance: float = TOLERANCE) -> list[str]:
    """What is not as on the first board, a line each."""
    first, *others = boards
    losses = [
        f"{name}: losses of {program} are {far:.1e} from those of {first}, more than {tolerance:g}"
        for name in others
        for program, far in apart(boards[first], boards[name]).items()
        if not far <= tolerance
    ]
    masks = [name for name in others if boards[name]["masks"] != boards[first]["masks"]]
    return losses + [f"{name}: masks of dropout differ from those of {first}" for name in masks]


def table(boards: Mapping[str, Found]) -> list[str]:
    """First and last loss of each program on each board, and how far the worst of all is from the first board."""
    first, *others = boards
    width = max(*map(len, boards), 9) + 2
    lines = [" " * 12 + "".join(name.rjust(width) for name in boards) + "  largest difference"]
    for program, losses in boards[first]["losses"].items():
        last = "".join(f"{board['losses'][program][-1]:.7f}".rjust(width) for board in boards.values())
        far = max(apart(boards[first], boards[name])[program] for name in others)
        lines.append(f"{program:12}{last}  {far:.1e} in {len(losses)} steps")
    return lines


def worst(boards: Mapping[str, Found]) -> float:
    """The largest relative difference of all."""
    first, *others = boards
    return max(far for name in others for far in apart(boards[first], boards[name]).values())


def verdict(boards: Mapping[str, Found], seconds: float) -> bool:
    """Print the table, what is wrong, and one line for scripts; return whether all is well."""
    lines = wrong(boards)
    print(*table(boards), *lines, sep="\n")
    alike = "wrong" if lines else "alike"
    print(f"result boards={alike} largest_difference={worst(boards):.1e} seconds={seconds:.0f}")
    return not lines
