"""A device killed at every step of an update that changes its disk: `python -m ota.killed FOLDER [POINT ...]`.

Each life is a process forked from this one; at the point that is its turn it kills itself by SIGKILL. Then `launch` must
find a version that can be started, and where that is the old one, its next life must bring the update to its end, with
the same slot and nothing half-made left. A line is a point; exit code 0 where all hold.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from faults.points import Points, file_path
from ota.boards import LAUNCH
from ota.devices import Device
from ota.owners import Owner

CALLS = ("fsync", "replace", "rename", "unlink", "symlink", "link", "mkdir", "sync")
STUB = '#!/bin/sh\necho "${FEDFLEET_SLOT##*/}" >>"$STARTED"\n'


def label(name: str, what: tuple[object, ...]) -> str:
    """What a call is about."""
    if not what:
        return name
    path = Path(str(what[1])) if name == "symlink" else file_path(what[0])
    return f"{name} {path.name[:24]}"


def ours(base: Path, name: str, what: tuple[object, ...]) -> bool:
    """Whether a call is about the board's disk."""
    return not what or file_path(what[name in ("symlink", "link")]).is_relative_to(base)


def life(folder: Path, owner: Owner, at: int, trace: Path) -> int:
    """Live in a process of its own until the update is done, or until the point `at`; returns the signal that ended it."""
    child = os.fork()
    if child == 0:
        point = Points(trace, {"": at})
        for name in CALLS:
            real = getattr(os, name)
            told = point.around(real, lambda *what, name=name: label(name, what))
            setattr(os, name, lambda *a, n=name, r=real, t=told, **k: (t if ours(folder, n, a) else r)(*a, **k))
        try:
            device = Device(folder, owner)
            device.publish("2.0.0")
            for _ in range(40):
                device.look(steps=5)
            os._exit(0 if device.updater.leaving else 3)
        finally:
            os._exit(4)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def launched(folder: Path) -> str:
    """Return the version that `launch` starts."""
    started, stub = folder / "started", folder / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    environment = {
        **os.environ,
        "FEDFLEET_SLOTS": str(folder / "slots"),
        "FEDFLEET_PYTHON": str(stub),
        "STARTED": str(started),
    }
    subprocess.run([str(LAUNCH)], env=environment, check=True, capture_output=True)
    return started.read_text().split()[-1]


def rest(folder: Path) -> list[str]:
    """Return all that is in the slots and in the updater's folder, but for what a start leaves."""
    places = [folder / "slots", folder / "state" / "release"]
    return sorted(str(path.relative_to(folder)) for place in places for path in place.rglob("*"))


def one(folder: Path, owner: Owner, at: int) -> tuple[str, list[str]]:
    """Update with a kill at the point `at`; returns what was wrong, and what is on the disk in the end."""
    Device(folder, owner)
    trace = folder.parent / f"trace-{at}"
    ended = life(folder, owner, at, trace)
    if ended != (9 if at else 0):
        return f"the first life ended with {ended}", []
    found = launched(folder)
    if found == "1.0.0":
        if (ended := life(folder, owner, 0, folder.parent / "trace")) != 0:
            return f"the second life ended with {ended}", []
        found = launched(folder)
    Device(folder, owner, version=found)
    return ("" if found == "2.0.0" else f"launch starts {found}"), rest(folder)


def main() -> int:
    """Print the table."""
    began, base, bad = time.monotonic(), Path(sys.argv[1]), 0
    owner = Owner(base / "owner")
    first = Device(base / "made", owner)
    first.release("2.0.0")
    wrong, whole = one(base / "0", owner, 0)
    assert not wrong, wrong
    points = (base / "trace-0").read_text().splitlines()
    chosen = list(map(int, sys.argv[2:])) or range(1, len(points) + 1)
    for at in chosen:
        name = points[at - 1]
        wrong, found = one(base / str(at), owner, at)
        wrong = wrong or ("" if found == whole else f"left {sorted(set(found) ^ set(whole))}")
        bad += bool(wrong)
        print(f"{at:4d}  {'BAD' if wrong else 'ok '}  {name}  {wrong}".rstrip(), flush=True)
    print(f"result points={len(points)} tried={len(chosen)} bad={bad} seconds={time.monotonic() - began:.0f}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
