"""What a board makes of programs that were compiled elsewhere: `python trained.py FOLDER` prints one line of JSON.

Twenty steps each on one batch, as the agent's own code takes them; NumPy, a runtime and `fedfleet.edge` are all it needs.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.edge.data import Batch
from fedfleet.edge.local import fit
from fedfleet.edge.runtime import Program, runtime
from fedfleet.wire.messages import Plan

STEPS = 20
SEEDS = (0, 1, 46_337, 2**31 - 1)


def trained(folder: Path) -> tuple[list[float], bytes]:
    """The loss before each of twenty steps, and the weights after them; with dropout, another seed at each."""
    header = json.loads((folder / "program.json").read_text())
    program = Program(folder / "program.tflite", header["digest"])
    program.set(np.fromfile(folder / "weights.bin", "<f4"))
    plan = Plan(**json.loads((folder / "plan.json").read_text()))
    batch = Batch(**np.load(folder / "batch.npz"))
    found = [fit(program, plan, [batch], lambda: False, seed) for seed in range(STEPS)]
    return [one.mean for one in found if one is not None], program.get().astype("<f4").tobytes()


def masks(path: Path) -> list[str]:
    """The sha256 of a mask of dropout by seed."""
    loaded = runtime().Interpreter(model_content=path.read_bytes())
    loaded.allocate_tensors()

    def mask(seed: int) -> bytes:
        loaded.set_tensor(loaded.get_input_details()[0]["index"], np.array([seed], np.int32))
        loaded.invoke()
        return bytes(loaded.get_tensor(loaded.get_output_details()[0]["index"]).tobytes())

    return [hashlib.sha256(mask(seed)).hexdigest() for seed in SEEDS]


def main() -> None:
    """Train all programs of a folder."""
    folder = Path(sys.argv[1])
    names = sorted(path.parent.name for path in folder.glob("*/program.json"))
    all_of = {name: trained(folder / name) for name in names}
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "runtime": runtime().__name__.partition(".")[0],
        "numpy": np.__version__,
        "losses": {name: losses for name, (losses, _) in all_of.items()},
        "weights": {name: b64encode(weights).decode() for name, (_, weights) in all_of.items()},
        "masks": masks(folder / "masks.tflite"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
