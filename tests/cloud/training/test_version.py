"""What the cloud trained is a version as any other: shown, promoted, exported, gone back to, and brought to devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import DEADLINE, PROGRAM, TOPICS, P, weights, world

from fedfleet.cloud import registry
from fedfleet.cloud.federation import Federation, packed, restore
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import Version, exported, find, promote, versions
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.cloud.training import version
from fedfleet.cloud.training.job import Job
from fedfleet.models.compiled import Compiled, Entry
from fedfleet.wire.errors import StoreError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Blob, Plan, Task

BEFORE = Compiled(PROGRAM, weights(), (Entry("w", (P,), 0, P),), "mean_squared_error", 4, (2,), (1,))
TRAINED = BEFORE.with_weights(weights() * 3 + 1)
HOW: dict[str, Any] = {"data": "npz:mine.npz", "epochs": 5, "strategy": "MirroredStrategy, 2 replicas"}
PLAN = Plan(5, learning_rate=0.02, momentum=0.9)


def bring_in(folder: Path, trained: Compiled = TRAINED, **more: Any) -> Version:
    return version.bring_in(folder, BEFORE, trained, PLAN, HOW, {"accuracy": 0.75}, **more)


def federation(name: str = "fedavg", rounds: int = 3) -> Federation:
    return Federation(PROGRAM, weights(), strategy(name), Plan(), Rounds(total=rounds), name=name)


def closed(folder: Path, *numbers: int, name: str = "fedavg") -> None:
    """Rounds that made models, each weights of its own number."""
    journal = Journal(folder)
    for number in numbers:
        task = Task(number, journal.blobs.put(PROGRAM), journal.blobs.put(b"before"), Plan())
        journal.open_round(task, name)
        made = np.full(P, number, np.float32)
        journal.close_round(number, *packed(made, strategy(name).server.moments(P) + number))
    journal.close()
    BEFORE.save(registry.programs_of(folder) / BEFORE.digest)


def test_it_is_a_version_with_its_lineage(tmp_path: Path) -> None:
    found = bring_in(tmp_path / "state")
    assert [found] == versions(tmp_path / "state")
    assert (found.round, found.state, found.origin, found.kept) == (1, "trained", None, True)
    assert found.training == HOW
    assert found.scores == {"accuracy": 0.75}
    assert (found.plan["epochs"], found.plan["momentum"]) == (5, 0.9)
    assert found.program == BEFORE.digest
    assert found.before == Blob.of(BEFORE.weights.tobytes()).digest
    assert found.weights == Blob.of(TRAINED.weights.tobytes()).digest
    assert found.began and found.ended and found.contributors == {}


def test_it_can_be_promoted_and_exported(tmp_path: Path) -> None:
    bring_in(tmp_path)
    assert promote(tmp_path, "1").names == ("promoted",)
    out = exported(tmp_path, find(versions(tmp_path), "promoted"))
    assert (out.weights == TRAINED.weights).all() and out.digest == TRAINED.digest


def test_its_number_is_above_all_rounds_and_an_open_one_is_abandoned(tmp_path: Path) -> None:
    closed(tmp_path, 1, 2)
    journal = Journal(tmp_path)
    journal.open_round(Task(3, journal.blobs.put(PROGRAM), journal.blobs.put(b"before"), Plan()))
    journal.close()
    assert bring_in(tmp_path, origin=2).round == 4
    journal = Journal(tmp_path)
    assert journal.open_task() is None
    assert journal.lineage(8) == (4, ())  # updates from before it do not count any more
    journal.close()
    assert [(each.round, each.origin) for each in versions(tmp_path)] == [(1, None), (2, None), (4, 2)]


@pytest.mark.parametrize("name", ["fedavg", "fedadam:0.1", "scaffold"])
def test_the_next_start_begins_from_it_with_a_fresh_server(tmp_path: Path, name: str) -> None:
    if name != "scaffold":  # whose tasks have a control, and so its journals
        closed(tmp_path, 1, name=name)
    number = bring_in(tmp_path).round
    for back in (False, True):
        journal = Journal(tmp_path)
        if back:
            journal.roll_back(number)
        found, moments = restore(journal, federation(name))
        journal.close()
        assert (found == TRAINED.weights).all()
        assert (moments == federation(name).strategy.server.moments(P)).all()


def test_an_older_model_is_gone_back_to_with_its_own_moments(tmp_path: Path) -> None:
    closed(tmp_path, 1, name="fedadam:0.1")
    bring_in(tmp_path)
    journal = Journal(tmp_path)
    journal.roll_back(1)
    found, moments = restore(journal, federation("fedadam:0.1"))
    journal.close()
    assert (found == 1).all() and (moments == strategy("fedadam:0.1").server.moments(P) + 1).all()


def test_models_that_are_too_old_go_and_it_stays_while_it_has_a_name(tmp_path: Path) -> None:
    number = bring_in(tmp_path).round
    promote(tmp_path, str(number))
    closed(tmp_path, 2, 3, 4, 5)
    assert [each.round for each in versions(tmp_path) if each.kept] == [1, 3, 4, 5]


def test_a_model_of_another_size_is_refused(tmp_path: Path) -> None:
    closed(tmp_path, 1)
    other = replace(TRAINED, weights=weights()[:7], layout=(Entry("w", (7,), 0, 7),))
    for refused in (lambda: bring_in(tmp_path, other), lambda: version.require(tmp_path, other)):
        with pytest.raises(StoreError, match=f"has models of {P} weights, and this one has 7; choose another"):
            refused()
    version.require(tmp_path, TRAINED)
    assert [each.round for each in versions(tmp_path)] == [1]


def test_a_folder_that_an_aggregator_holds_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for refused in (lambda: bring_in(tmp_path), lambda: version.require(tmp_path, TRAINED)):
        with pytest.raises(StoreError, match="is in use; is another aggregator using this folder"):
            refused()
    journal.close()
    version.require(tmp_path / "new", TRAINED)
    assert not (tmp_path / "new").exists()


def test_local_layers_stay_out_of_it(tmp_path: Path) -> None:
    layout = (Entry("w", (P - 3,), 0, P - 3), Entry("own", (3,), P - 3, 3, shared=False, place=1))
    found = bring_in(tmp_path, replace(TRAINED, layout=layout))
    assert found.weights == Blob.of(TRAINED.weights[:-3].tobytes()).digest


def test_a_fleet_goes_on_from_it() -> None:
    with world(rounds=Rounds(total=3, devices=3, deadline=DEADLINE)) as found:
        found.until(2)
        found.cloud_dies()
        made = bring_in(found.folder / "cloud")
        found.cloud_starts()
        found.until(made.round + 1)
        task = found.hub.retained[TOPICS.task]
        assert made.weights.encode() in task
        found.play()
        assert [each.state for each in versions(found.folder / "cloud")].count("closed") == 3


def test_a_fleet_whose_rounds_are_over_gets_it() -> None:
    with world() as found:
        found.play()
        found.cloud.retire()
        found.cloud_dies()
        bring_in(found.folder / "cloud")
        found.cloud_starts()
        for actor in list(range(found.devices + 1)) * 12:
            found.act(actor)
        held = [{path.read_bytes() for path in (found.folder / d / "blobs").iterdir()} for d in found.names]
        assert all(TRAINED.weights.tobytes() in blobs for blobs in held)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "second"), [("sgd", 0, 0), ("momentum", 0.9, 0), ("adam", 0.9, 0.999)]
)
def test_a_job_as_a_plan(optimizer: str, momentum: float, second: float) -> None:
    job = Job(
        lambda: None, Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int32)), Path("b"), optimizer=optimizer
    )
    plan = version.plan_of(replace(job, epochs=7, learning_rate=0.5))
    assert (plan.epochs, plan.learning_rate, plan.momentum, plan.second_moment) == (7, 0.5, momentum, second)
