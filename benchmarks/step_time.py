"""A training step of the device program beside TensorFlow's own, on one core, for every model of the zoo.

TensorFlow runs what its users write: a tf.function with GradientTape and Keras's SGD with momentum 0.9, its batch a
tensor already; oneDNN as it comes, XLA off, one thread. The device program runs as on a device: `train` with the same
momentum, its batch from NumPy at every step. Both see the model with its statistics as they are (training=False).
Both run in one process that is bound to one core, in blocks that alternate; a ratio is taken within each lap.

The bar: a geometric mean of at most 1, and no model over 1.5. The exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import outcome

from fedfleet.models.quiet import quiet

if TYPE_CHECKING:
    from steps import Timed

GEOMEAN, WORST = 1.0, 1.5


def rows(found: list[Timed]) -> list[list[str]]:
    """The table."""
    heading = ["model", "parameters", "TF ms", "device ms", "ratio", "(range)"]
    body = [
        [
            each.model,
            f"{each.parameters:,}",
            f"{statistics.median(each.tensorflow):.3f}",
            f"{statistics.median(each.device):.3f}",
            f"{statistics.median(each.ratios):.2f}",
            f"({min(each.ratios):.2f}-{max(each.ratios):.2f})",
        ]
        for each in found
    ]
    return [heading, *body]


def figures(found: list[Timed]) -> dict[str, Any]:
    """What the last line says."""
    ratios = {each.model: statistics.median(each.ratios) for each in found}
    worst = max(ratios, key=lambda name: ratios[name])
    return {
        "geomean": statistics.geometric_mean(ratios.values()),
        "worst": ratios[worst],
        "worst_model": worst,
        "tf": outcome.versions("tensorflow", "tensorflow-cpu").popitem()[1],
        "runtime": outcome.runtime(),
    }


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", metavar="A,B", help="these models alone")
    parser.add_argument("--laps", type=int, default=9, help="blocks of each kind (default: 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times there, with versions and method")
    wanted = parser.parse_args()
    if wanted.laps < 1:
        parser.error("--laps must be at least 1")
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        # here and not at the top: TensorFlow talks while it is loaded, and counts the cores
        import steps

        from fedfleet.models.zoo import ZOO

        steps.one_thread()
    names = wanted.models.split(",") if wanted.models else list(ZOO)
    if wrong := sorted(set(names) - set(ZOO)):
        parser.error(f"no model {', '.join(wrong)} in the zoo; known: {', '.join(ZOO)}")
    print(f"one training step, batch {steps.BATCH}, core {core} alone, {wanted.laps} laps", flush=True)
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        found = [steps.timed(name, ZOO[name], wanted.laps) for name in names]
    summary = figures(found)
    outcome.table(rows(found))
    met = summary["geomean"] <= GEOMEAN and summary["worst"] <= WORST
    print(f"bar: geomean at most {GEOMEAN}, no model over {WORST}: {'met' if met else 'missed'}")
    outcome.save(
        wanted.json,
        {
            "method": __doc__,
            "batch": steps.BATCH,
            "bar": {"geomean": GEOMEAN, "worst": WORST, "met": met},
            "machine": outcome.machine(),
            "versions": outcome.versions("tensorflow", "keras", "numpy", *outcome.RUNTIMES),
            "models": [{**each._asdict(), "ratios": each.ratios} for each in found],
            "result": summary,
        },
    )
    outcome.result(summary)


if __name__ == "__main__":
    main()
