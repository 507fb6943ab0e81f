"""How far a step of the device program is from TensorFlow's own, for every model of the zoo.

TensorFlow's GradientTape goes 50 steps of SGD; at each of them the program starts from the same weights and takes the
same step on the same batch, its last row masked. Told is |program's step - TensorFlow's| / |TensorFlow's|, the median
and the largest. Two maxima that differ in the last bit may fall out differently under a max-pooling: then single steps
of such a model are further apart, and neither is wrong.

The bar: a median of at most 1e-4 for every model. The exit code is 0 either way.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import outcome

from fedfleet.models.quiet import quiet

STEPS, RATE, BAR = 50, 0.05, 1e-4


def apart(build: Callable[[], Any], loss: str) -> list[float]:
    """The distances of one model, step by step."""
    from fedfleet.models import audit, compiler
    from fedfleet.models.compiled import arranged
    from fedfleet.models.runtime import interpreter

    model = build()
    compiled = compiler.compile(model, loss)
    loaded = interpreter(compiled.program)
    run = {name: loaded.get_signature_runner(name) for name in loaded.get_signature_list()}
    weights, found = compiled.weights, []
    for number in range(STEPS):
        batch = audit.examples(compiled) | audit.seeds(run, number)
        compiler.assign(model, compiled.layout, weights)
        theirs = arranged(audit.gradient(model, loss, batch), compiled.layout)
        run["set"](weights=weights)
        audit.step(run, batch, learning_rate=audit.RATE)
        mine = (weights.astype(np.float64) - run["get"]()["weights"]) / audit.RATE
        found.append(float(np.linalg.norm(mine - theirs) / max(float(np.linalg.norm(theirs)), 1e-12)))
        weights = weights - np.float32(RATE) * theirs
    return found


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", metavar="A,B", help="these models alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all distances there, with versions and method")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        # here and not at the top: TensorFlow talks while it is loaded
        from fedfleet.models.zoo import ZOO
    names = wanted.models.split(",") if wanted.models else list(ZOO)
    if wrong := sorted(set(names) - set(ZOO)):
        parser.error(f"no model {', '.join(wrong)} in the zoo; known: {', '.join(ZOO)}")
    print(f"{STEPS} steps of each model beside TensorFlow's", flush=True)
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        found = {name: apart(ZOO[name].build, ZOO[name].loss) for name in names}
    body = [[name, f"{statistics.median(each):.1e}", f"{max(each):.1e}"] for name, each in found.items()]
    outcome.table([["model", "median", "largest"], *body])
    worst = max(statistics.median(each) for each in found.values())
    print(f"bar: a median of at most {BAR:.0e}: {'met' if worst <= BAR else 'missed'}")
    versions = outcome.versions("tensorflow", "keras", "numpy", *outcome.RUNTIMES)
    outcome.save(wanted.json, {"method": __doc__, "bar": BAR, "versions": versions, "models": found})
    tensorflow = outcome.versions("tensorflow", "tensorflow-cpu").popitem()[1]
    outcome.result({"worst": worst, "models": len(found), "tf": tensorflow, "runtime": outcome.runtime()})


if __name__ == "__main__":
    main()
