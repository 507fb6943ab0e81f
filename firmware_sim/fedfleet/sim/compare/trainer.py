"""The process that trains on all data: `python -m fedfleet.sim.compare.trainer PARENT FOLDER`. It says each epoch.

TensorFlow is loaded here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.training import central
from fedfleet.cloud.training.fit import fit
from fedfleet.cloud.training.job import Job, Passed
from fedfleet.models import compiler
from fedfleet.models.compiled import arranged, load
from fedfleet.sim import program
from fedfleet.sim.board import leash
from fedfleet.sim.compare.central import REPLICAS
from fedfleet.sim.datasets import load as load_data
from fedfleet.sim.split import split
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.examples import Examples
from fedfleet.wire.record import build


def train(folder: Path) -> None:
    """Train as `wanted.json` in `folder` says, from the program in `start`; a line of JSON for each epoch."""
    wanted = build(Simulation, json.loads((folder / "wanted.json").read_bytes()), strict=True)
    strategy = central.strategy("mirrored", REPLICAS)
    dataset, start, models = load_data(wanted.data, wanted.seed), load(folder / "start"), list[Any]()
    parts = split(wanted.split, dataset, wanted.devices, wanted.seed)
    score = evaluator(start, dataset.test, dataset.target_scale)

    def made() -> Any:
        model = program.build(dataset, wanted.kind, wanted.model, wanted.seed)
        compiler.assign(model, start.layout, start.weights)
        models.append(model)
        return model

    def tell(passed: Passed) -> None:
        if passed.loss is not None:
            weights = arranged(compiler.flatten(models[-1]), start.layout)
            _say(epoch=passed.epoch, score=score(weights)[dataset.metric])

    job = Job(
        build=made,
        examples=Examples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])),
        folder=folder / "backup",
        loss=start.loss,
        epochs=wanted.plan.epochs * wanted.rounds.total,
        batch=wanted.batch,
        optimizer="momentum" if wanted.plan.momentum else "sgd",
        learning_rate=wanted.plan.learning_rate,
        seed=wanted.seed,
    )
    _say(began=True)
    fit(job, strategy, tell)


def _say(**said: object) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    leash(int(sys.argv[1]))
    try:
        train(Path(sys.argv[2]))
    except FedfleetError as error:
        sys.exit(str(error))
