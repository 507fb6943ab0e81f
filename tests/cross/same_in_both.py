"""Programs compiled by either TensorFlow under either runtime: `python -m cross.same_in_both PYTHON`, the other interpreter.

Twenty steps each, losses side by side. Exit code 0 where all four agree, else 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from boards import agree

ROOT = Path(__file__).parents[2]
PROGRAMS, TRAINED = (str(ROOT / "tests" / "boards" / name) for name in ("programs.py", "trained.py"))


def boards(pythons: list[str], folder: Path) -> dict[str, agree.Found]:
    """What each interpreter's runtime makes of the programs that each interpreter's TensorFlow compiled."""
    rooms = os.pathsep.join(str(ROOT / room) for room in ("edge", "models"))
    environment = {**os.environ, "PYTHONPATH": rooms}
    found = {}
    for number, compiling in enumerate(pythons):
        programs = str(folder / str(number))
        version = agree.said([compiling, PROGRAMS, programs], environment)
        for running in pythons:
            there = agree.report([running, TRAINED, programs], environment)
            runtime = there["runtime"].removeprefix("ai_edge_").removesuffix("_runtime")
            found[f"{version} {runtime}"] = there
    return found


def main() -> int:
    """Compare the four."""
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = boards([sys.executable, sys.argv[1]], Path(folder))
    except agree.Failed as failed:
        print(failed)
        return 1
    return 0 if agree.verdict(found, time.monotonic() - began) else 1


if __name__ == "__main__":
    sys.exit(main())
