"""The same programs on x86-64, aarch64 and armv7l: twenty steps each, emulated by QEMU, losses side by side.

Exit code 0 where all agree, 1 where they do not, 2 with one line where this machine lacks something.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from arm import roots
from boards import agree

PROGRAMS, TRAINED = (str(roots.ROOT / "tests" / "boards" / name) for name in ("programs.py", "trained.py"))
CACHE = roots.ROOT / ".arm"


def boards(folder: Path) -> dict[str, agree.Found]:
    """What each machine makes of the programs in `folder`, this one first."""
    ready = {board: roots.root(board, CACHE) for board in roots.BOARDS}
    rooms = os.pathsep.join(str(roots.ROOT / room) for room in ("edge", "models"))
    here = {**os.environ, "PYTHONPATH": rooms}
    agree.said([sys.executable, PROGRAMS, str(folder)], here)
    mine = agree.report([sys.executable, TRAINED, str(folder)], here)
    found = {mine["machine"]: mine}
    for board, root in ready.items():
        began = time.monotonic()
        there = agree.report(roots.command(board, root, TRAINED, str(folder)), {"PATH": os.environ["PATH"]})
        took = time.monotonic() - began
        print(f"{there['machine']}: {there['runtime']}, NumPy {there['numpy']}, {took:.1f} s emulated")
        found[there["machine"]] = there
    return found


def main() -> int:
    """Compare them."""
    began = time.monotonic()
    try:
        roots.check()
        with tempfile.TemporaryDirectory() as folder:
            found = boards(Path(folder))
    except roots.Missing as missing:
        print(f"test-arm cannot run: {missing}")
        return 2
    except agree.Failed as failed:
        print(failed)
        return 1
    return 0 if agree.verdict(found, time.monotonic() - began) else 1


if __name__ == "__main__":
    sys.exit(main())
