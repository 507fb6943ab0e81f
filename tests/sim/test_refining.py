"""Refining in simulations: what the cloud gets is on no device, the same engines give the same bits, faults or not."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.console import Console

from fedfleet.cloud.refine.plan import Refining
from fedfleet.cloud.registry import versions
from fedfleet.cloud.settings import Rounds
from fedfleet.edge.data import Store
from fedfleet.sim import refining
from fedfleet.sim.datasets import Dataset, load
from fedfleet.sim.record import Run, read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.split import set_aside
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import DataError, SettingsError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan

SMALL = Simulation(
    devices=3,
    split="dirichlet:0.1",
    engine="loopback",
    rounds=Rounds(total=4, deadline=60.0),
    plan=Plan(learning_rate=0.05),
    baselines=False,
    cloud_share=0.1,
)
TUNE, DISTIL = (replace(SMALL, refine=f"{kind}:every=2,steps=10,batch=32") for kind in ("tune", "distil"))
pytestmark = pytest.mark.filterwarnings("ignore")


class Ran(NamedTuple):
    """A run, and what was said of it."""

    run: Run
    folder: Path
    said: str

    @property
    def weights(self) -> str:
        assert self.run.outcome is not None and self.run.outcome.finished
        return self.run.outcome.weights


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Simulation], Ran]:
    """Runs a simulation, once."""

    @cache
    def once(wanted: Simulation) -> Ran:
        text = io.StringIO()
        folder = simulate(wanted, tmp_path_factory.mktemp("runs"), Console(file=text, width=200))
        return Ran(read(folder), folder, text.getvalue())

    return once


Play = Callable[[Simulation], Ran]


@pytest.mark.parametrize("wanted", [TUNE, DISTIL], ids=["tune", "distil"])
def test_one_seed_one_result_on_every_engine(wanted: Simulation, ran: Play) -> None:
    assert ran(wanted).weights == ran(replace(wanted, engine="virtual")).weights


@pytest.mark.parametrize("wanted", [TUNE, DISTIL], ids=["tune", "distil"])
def test_what_a_run_says_of_it(wanted: Simulation, ran: Play) -> None:
    found = ran(wanted)
    assert [record.refined is not None for record in found.run.rounds] == [False, True, False, True]
    kind = wanted.refine.partition(":")[0]
    by = " by 3 devices' models" if kind == "distil" else ""
    assert f"round 2 refined: {kind}, 10 steps of 32 on 144 examples{by}: taken\n" in found.said
    assert "1294 examples on 3 devices (dirichlet:0.1), 144 in the cloud, 359 held out" in found.said
    assert (found.run.facts.cloud, found.run.facts.refine) == (144, wanted.refine)
    made = versions(found.folder / "cloud")
    assert [version.refined for version in made] == [record.refined for record in found.run.rounds]
    assert f"144 examples; {wanted.refine}" in (found.folder / "report.html").read_text()


def test_a_cloud_that_is_killed_in_most_rounds_comes_to_the_same(ran: Play) -> None:
    assert ran(replace(DISTIL, engine="virtual", faults="kill=0.9")).weights == ran(DISTIL).weights


def test_devices_hold_the_same_with_refining_and_without(ran: Play) -> None:
    plain, tuned = ran(SMALL).run, ran(TUNE).run
    assert plain.facts.counts == tuned.facts.counts and sum(map(sum, plain.facts.counts)) == 1294
    assert plain.rounds[0].weights == tuned.rounds[0].weights
    assert plain.rounds[1].weights != tuned.rounds[1].weights
    assert (plain.facts.cloud, plain.facts.refine) == (144, "")


def test_what_the_cloud_has_is_on_no_device(ran: Play) -> None:
    folders = sorted(ran(SMALL).folder.glob("devices/*/state/examples"))
    held = [Store.open(path).arrays() for path in folders]
    _, cloud = set_aside(load("digits", 0), 0.1, 0)
    assert cloud is not None
    own = {row.tobytes() for row in cloud.x}
    other = {row.tobytes() for part in held for row in part.x}
    assert len(held) == 3 and sum(len(part.x) for part in held) == 1294
    assert not own & other


def test_a_gate_never_looks_at_the_test_data(ran: Play) -> None:
    found = ran(replace(TUNE, refine="tune:every=1,steps=10,gate=accuracy"))
    for record in found.run.rounds:
        assert record.refined is not None and record.refined.examples == 115
        shown = float(record.refined.why.split()[1].rstrip(","))
        assert shown * 29 == pytest.approx(round(shown * 29), abs=2e-3)  # of the 29 that are left


def made(total: int, classes: int | None, groups: list[int] | None = None) -> Dataset:
    """Example n has x = n; its label is n % classes, or its target n."""
    n = np.arange(total)
    y = n.astype(np.float32)[:, None] if classes is None else (n % classes).astype(np.int32)
    train = Examples(n.astype(np.float32)[:, None], y)
    return Dataset("made", train, train, classes, None if groups is None else np.array(groups), "accuracy", 1.0)


@pytest.mark.parametrize(("share", "classes"), [(0.1, 4), (0.25, 10), (0.5, 3), (0.1, None), (0.9, 2)])
def test_labels_are_set_aside_in_proportion(share: float, classes: int | None) -> None:
    data = made(200, classes)
    rest, cloud = set_aside(data, share, 3)
    assert cloud is not None and len(cloud.x) == round(200 * share)
    assert sorted([*rest.train.x[:, 0], *cloud.x[:, 0]]) == list(range(200))
    if classes:
        have, all_ = (np.bincount(part.y, minlength=classes) for part in (cloud, data.train))
        assert np.abs(have - share * all_).max() <= 1
    _, other = set_aside(data, share, 4)
    assert other is not None and not np.array_equal(other.x, cloud.x)
    assert set_aside(data, 0.0, 3) == (data, None)


def test_of_data_that_knows_its_devices_whole_ones_are_set_aside() -> None:
    groups = [n // 10 + 1 for n in range(100)]
    rest, cloud = set_aside(made(100, None, groups), 0.15, 0)
    assert cloud is not None and cloud.x[:, 0].tolist() == list(range(80, 100))
    assert rest.groups is not None and sorted(set(rest.groups.tolist())) == list(range(1, 9))
    assert len(rest.groups) == len(rest.train.x) == 80


@pytest.mark.parametrize(("share", "groups"), [(0.001, None), (0.9, [1] * 20), (0.99, None)])
def test_nothing_and_everything_cannot_be_set_aside(share: float, groups: list[int] | None) -> None:
    with pytest.raises(DataError, match="of them are none, or all of them"):
        set_aside(made(20, None, groups), share, 0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"refine": "polish"}, "kind must be tune or distil"),
        ({"cloud_share": 0.0, "refine": "tune"}, "set some aside: --cloud-share 0.1"),
        ({"cloud_share": 1.0}, "must be 0 to 0.9 of the training data"),
        ({"cloud_share": float("nan")}, "must be 0 to 0.9 of the training data"),
        ({"refine": "tune", "local": ("dense",)}, "the cloud has no local layers; leave --local out"),
        ({"refine": "distil", "strategy": "median"}, "also those that median keeps out"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        refining.wanted_of(replace(SMALL, **change))


def test_what_is_asked_for() -> None:
    assert refining.wanted_of(SMALL) == Refining()
    assert refining.wanted_of(TUNE) == Refining("tune", every=2, steps=10, batch=32)


def test_a_gate_that_the_data_does_not_have_is_refused(ran: Play) -> None:
    with pytest.raises(SettingsError, match="refine.gate 'rmse' is none of this model's: take accuracy or loss"):
        ran(replace(TUNE, refine="tune:gate=rmse"))
