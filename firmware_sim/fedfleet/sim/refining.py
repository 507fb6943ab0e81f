"""Refining in a run: which data the cloud gets, of what no device has, and what refines with it."""

from __future__ import annotations

from functools import partial

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.refine.plan import Refine, Refining, contradiction, parse
from fedfleet.models.compiled import Compiled
from fedfleet.models.quiet import quiet
from fedfleet.sim.datasets import holdout
from fedfleet.sim.stage import Simulation, Stage
from fedfleet.wire.errors import SettingsError

MOST = 0.9  # of the training data


def wanted_of(wanted: Simulation) -> Refining:
    """Return how `wanted` refines; raises SettingsError for what makes no sense with the rest of it."""
    if not 0 <= wanted.cloud_share <= MOST:
        raise SettingsError(f"the cloud's share must be 0 to {MOST:g} of the training data, not {wanted.cloud_share:g}")
    if not wanted.refine:
        return Refining()
    plan = parse(wanted.refine)
    if text := contradiction(plan, wanted.strategy, held_out=True):
        raise SettingsError(f"refine {wanted.refine!r}: {text}")
    if wanted.local:
        raise SettingsError(f"refine {wanted.refine!r}: the cloud has no local layers; leave --local out, or this")
    if not wanted.cloud_share:
        raise SettingsError(f"refine {wanted.refine!r}: the cloud has no data; set some aside: --cloud-share 0.1")
    return plan


def reserve(wanted: Simulation) -> None:
    """Have TensorFlow part the CPU for whoever wants replicas, which it does before it computes, or never."""
    counts = wanted_of(wanted).replicas, wanted.combine.replicas
    if max(counts) > 0:
        from fedfleet.cloud import replicas

        replicas.reserve(*counts)


def refiner(wanted: Simulation, stage: Stage, compiled: Compiled) -> Refine | None:
    """Return what refines the models of a run, None where nothing is to.

    With a gate, every fifth of the cloud's examples is held out for it: the test data stays unseen. Raises
    FedfleetError.
    """
    plan = wanted_of(wanted)
    if not plan.kind or stage.cloud is None:
        return None
    data, judged = holdout(stage.cloud, wanted.seed) if plan.gate else (stage.cloud, None)
    scorer = evaluator(compiled, judged, stage.dataset.target_scale) if judged else None
    with quiet(stage.folder / "tensorflow.log"):
        from fedfleet.cloud.refine.refiner import refiner as made
        from fedfleet.sim import program

        build = partial(program.build, stage.dataset, wanted.kind, wanted.model, wanted.seed)
        return made(plan, compiled, build, data if plan.kind == "tune" else data.x, wanted.seed, scorer)
