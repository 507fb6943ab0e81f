"""What several boards made of the same programs, side by side, and how far apart they are."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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


def distances(one: Found, other: Found) -> dict[str, float]:
    """How far trained weights of two boards are from each other, by program: the largest difference, by the largest weight."""
    return {name: _distance(weights, other["weights"][name]) for name, weights in one["weights"].items()}


def _distance(one: str, other: str) -> float:
    """0 where the bits are the same, and never else."""
    if one == other:
        return 0.0
    ours, theirs = (np.frombuffer(b64decode(text), "<f4").astype(np.float64) for text in (one, other))
    return max(float(np.abs(ours - theirs).max() / np.abs(ours).max()), sys.float_info.min)


def wrong(boards: Mapping[str, Found], tolerance: float = TOLERANCE) -> list[str]:
    """What is not as on the first board, a line each."""
    first, *others = boards
    losses = [
        f"{name}: losses of {program} are {far:.1e} from those of {first}, more than {tolerance:g}"
        for name in others
        for program, far in apart(boards[first], boards[name]).items()
        if not far <= tolerance
    ]
    weights = [
        f"{name}: weights of {program} are {far:.1e} from those of {first}, more than {tolerance:g}"
        for name in others
        for program, far in distances(boards[first], boards[name]).items()
        if not far <= tolerance
    ]
    masks = [name for name in others if boards[name]["masks"] != boards[first]["masks"]]
    return losses + weights + [f"{name}: masks of dropout differ from those of {first}" for name in masks]


def table(boards: Mapping[str, Found]) -> list[str]:
    """First and last loss of each program on each board, and how far the worst of all is from the first board."""
    first, *others = boards
    width = max(*map(len, boards), 9) + 2
    lines = [
        " " * 12 + "".join(name.rjust(width) for name in boards) + "  largest difference, that of weights after them"
    ]
    for program, losses in boards[first]["losses"].items():
        last = "".join(f"{board['losses'][program][-1]:.7f}".rjust(width) for board in boards.values())
        far = max(apart(boards[first], boards[name])[program] for name in others)
        moved = max(distances(boards[first], boards[name])[program] for name in others)
        said = f"{moved:.1e}" if moved else "none: the same bits"
        lines.append(f"{program:12}{last}  {far:.1e} in {len(losses)} steps, {said}")
    return lines


def worst(boards: Mapping[str, Found]) -> float:
    """The largest relative difference of all."""
    first, *others = boards
    return max(far for name in others for far in apart(boards[first], boards[name]).values())


def weighed(boards: Mapping[str, Found]) -> str:
    """How many programs got the same weights to the bit on all boards, and the largest distance of all, for scripts."""
    first, *others = boards
    found = [distances(boards[first], boards[name]) for name in others]
    same = sum(not any(each[program] for each in found) for program in boards[first]["weights"])
    largest = max(far for each in found for far in each.values())
    return f"same_weights={same}/{len(boards[first]['weights'])} largest_weight_difference={largest:.1e}"


def verdict(boards: Mapping[str, Found], seconds: float) -> bool:
    """Print the table, what is wrong, and one line for scripts; return whether all is well."""
    lines = wrong(boards)
    print(*table(boards), *lines, sep="\n")
    alike = "wrong" if lines else "alike"
    print(f"result boards={alike} largest_difference={worst(boards):.1e} {weighed(boards)} seconds={seconds:.0f}")
    return not lines
