"""A training process as on a device, NumPy and the LiteRT runtime alone: how much memory it takes at its peak."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random  # a device draws its batches with it, and numpy loads it only when asked

from fedfleet.models.compiled import Compiled
from fedfleet.models.runtime import interpreter
from fedfleet.wire.errors import ProgramError

STEPS = 3
PEAK = "VmHWM:"


def peak_mib(compiled: Compiled) -> float | None:
    """The peak resident memory of a fresh process that trains; None where only TensorFlow could run the program."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.tflite"
        program.write_bytes(compiled.program)
        command = [sys.executable, "-m", __name__, str(program)]
        # what this process can import, however it came to
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProgramError(f"a process that trains ended with exit code {ended.returncode}: {last[:200]}")
    peak, loaded = ended.stdout.split()
    return None if loaded == "tensorflow" else int(peak) / 1024


def rehearse(program: Path) -> None:
    """Trains a few steps on a batch of nothing in particular, from any weights, and takes the difference."""
    loaded = interpreter(program.read_bytes())
    run = {name: loaded.get_signature_runner(name) for name in loaded.get_signature_list()}
    start = _any(run["set"])["weights"]
    run["set"](weights=start)
    for _ in range(STEPS):
        run["train"](**_any(run["train"]))
    (run["get"]()["weights"] - start).tobytes()


def _any(signature: Any) -> dict[str, Any]:
    """A value for every input; written, since memory that was never touched counts for nothing."""
    details = signature.get_input_details().items()
    return {name: np.full(tuple(detail["shape"]), 0, detail["dtype"]) for name, detail in details}


def main() -> None:
    """The child: trains, then prints its peak in KiB and whether TensorFlow was needed."""
    rehearse(Path(sys.argv[1]))
    # the kernel's count for this program: ru_maxrss would begin with the parent's
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(PEAK))
    print(peak.split()[1], "tensorflow" if "tensorflow" in sys.modules else "litert")


if __name__ == "__main__":
    main()
