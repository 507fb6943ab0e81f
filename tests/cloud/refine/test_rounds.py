"""Refining inside of rounds: which ones, from what, before devices see it; and whoever is killed meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import ALL, UNINTERRUPTED, World, fedavg, sha256, weights, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.journal import Journal
from fedfleet.cloud.notes import Standing, standing
from fedfleet.cloud.refine.clients import clients
from fedfleet.cloud.refine.plan import Made, Refined, Refinement, Refining
from fedfleet.cloud.registry import find, versions
from fedfleet.cloud.settings import Rounds
from fedfleet.edge.trainer import Stop
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.codecs import Weights, grow
from fedfleet.wire.messages import Blob, Plan, Task, Update

PLAN = Refining("distil", every=2)


class Killed(BaseException):
    """The power went."""


class Recorded(SeededTrainer):
    """A device of which the model that it came to is known."""

    def __init__(self, device: str, examples: int, models: dict[tuple[int, str], Weights]) -> None:
        super().__init__(device, examples)
        self._models = models

    def train(self, task: Task, program: Path, path: Path, stop: Stop) -> Update | None:
        update = super().train(task, program, path, stop)
        assert update is not None
        start = np.frombuffer(path.read_bytes()[: 4 * weights().size], "<f4")
        values = start.size * (2 if task.control else 1)
        self._models[task.round, update.device] = start + grow(update.codec, update.delta, values)[: start.size]
        return update


def half(made: Made) -> Refined:
    """Goes half the way from the round's model to the mean of its devices' models: a stand-in with the same needs."""
    mean = np.mean([np.asarray(each, np.float64) for each in made.clients()], axis=0)
    found = ((made.weights + mean) / 2).astype(np.float32)
    digest = Blob.of(made.weights.astype("<f4").tobytes()).digest
    return Refined(found, Refinement("distil", 1, 2, 0.1, 1, 9, len(list(made.clients())), digest, True, ""))


def refined(**options: Any) -> str:
    """The digest that a federation comes to whose models are refined."""
    with world(refine=half, refining=PLAN, **options) as found:
        return found.play()


WHOLE = refined()


def test_every_second_model_is_refined_and_the_next_round_starts_from_it() -> None:
    with world(refine=half, refining=PLAN) as found:
        found.play()
        assert [record.refined is not None for record in found.records] == [False, True, False]
        made = versions(found.folder / "cloud")
        assert [version.refined is not None for version in made] == [False, True, False]
        second = made[1].refined
        assert second == found.records[1].refined and second is not None
        assert second.averaged == fedavg({1: ALL, 2: ALL}) != made[1].weights
        assert made[2].before == made[1].weights == found.records[1].weights
        assert (second.teachers, second.taken) == (3, True)


def test_without_anything_due_all_is_as_ever() -> None:
    for options in ({"refining": PLAN}, {"refine": half}, {"refine": half, "refining": Refining("tune", every=9)}):
        with world(**options) as found:
            assert found.play() == UNINTERRUPTED


def test_teachers_are_the_models_of_the_devices_in_order_of_their_ids() -> None:
    models: dict[tuple[int, str], Weights] = {}
    seen: list[Made] = []
    taught: list[Weights] = []

    def look(made: Made) -> Refined:
        seen.append(made)
        taught.extend(made.clients())
        return half(made)

    trainers = {f"d{n}": Recorded(f"d{n}", 10 * n + 10, models) for n in range(3)}
    with world(refine=look, refining=PLAN, trainers=trainers) as found:
        found.play()
    assert [made.round for made in seen] == [2]
    assert sha256(seen[0].weights.astype("<f4").tobytes()) == fedavg({1: ALL, 2: ALL})
    for found_, device in zip(taught, ("d0", "d1", "d2"), strict=True):
        assert np.array_equal(found_, models[2, device])


@pytest.mark.parametrize(
    "options",
    [
        {"plan": Plan(codec="int8")},
        {"strategy": "scaffold"},
        {"rounds": Rounds(total=3, devices=3, deadline=1000.0, downlink="int8")},
    ],
)
def test_teachers_begin_with_what_devices_were_sent(options: dict[str, Any]) -> None:
    """Whatever the way down made of it; what an update holds besides the weights is none of the model."""
    models: dict[tuple[int, str], Weights] = {}
    taught: list[Weights] = []

    def look(made: Made) -> Refined:
        taught.extend(made.clients())
        return half(made)

    trainers = {f"d{n}": Recorded(f"d{n}", 10 * n + 10, models) for n in range(3)}
    with world(refine=look, refining=PLAN, trainers=trainers, **options) as found:
        found.play()
    assert [each.size for each in taught] == [weights().size] * 3
    for each, device in zip(taught, ("d0", "d1", "d2"), strict=True):
        assert np.array_equal(each, models[2, device])


def test_updates_of_earlier_rounds_teach_nothing(tmp_path: Path) -> None:
    """They began with other weights."""
    journal = Journal(tmp_path)
    task = Task(2, Blob.of(b"program"), journal.blobs.put(weights().tobytes()), Plan(), staleness=1)
    journal.open_round(task)
    deltas = [np.full(weights().size, n, np.float32) for n in (1, 2, 3)]
    for device, number, delta in zip("cab", (2, 1, 2), deltas, strict=True):
        journal.count(Update(number, device, 9, "float32", delta.tobytes(), {}), into=2)
    found = list(clients(journal, task, weights().size))
    assert np.array_equal(found, [weights() + deltas[2], weights() + deltas[0]])  # b, then c
    journal.close()


@pytest.mark.parametrize("strategy", ["fedadam:0.01", "fedavgm", "scaffold"])
def test_the_optimisers_state_is_as_without_refining(strategy: str) -> None:
    moments = []
    for options in ({}, {"refine": half, "refining": Refining("distil", every=1)}):
        with world(strategy=strategy, rounds=Rounds(total=1, devices=3, deadline=1000.0), **options) as found:
            found.play()
            model = found.journal.model()
            assert model is not None
            moments.append(found.journal.blobs.get(model.moments))
    assert moments[0] == moments[1]


class Cut:
    """Refines, but the `at`-th time the power goes: before anything was done, or when all was done."""

    def __init__(self, at: int, late: bool) -> None:
        self.at, self.late, self.calls = at, late, 0

    def __call__(self, made: Made) -> Refined:
        self.calls += 1
        if self.calls == self.at and not self.late:
            next(made.clients())
            raise Killed
        found = half(made)
        if self.calls == self.at:
            raise Killed
        return found


def survived(found: World) -> str:
    """Play on, starting the aggregator again after each end."""
    for _ in range(9):
        try:
            return found.play()
        except Killed:
            found.cloud_dies()
            found.cloud_starts()
    raise AssertionError("killed for ever")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_it_refines_the_next_start_refines_to_the_same_bits(at: int, late: bool) -> None:
    cut, rounds = Cut(at, late), Rounds(total=4, devices=3, deadline=1000.0)
    with world(refine=cut, refining=PLAN, rounds=rounds) as found:
        assert survived(found) == refined(rounds=rounds)
        assert cut.calls == 3
        assert [record.refined is not None for record in found.records] == [False, True, False, True]
        assert [version.round for version in versions(found.folder / "cloud")] == [1, 2, 3, 4]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=60))
def test_whenever_the_aggregator_ends_its_models_are_the_same(schedule: list[int]) -> None:
    with world(refine=half, refining=PLAN) as found:
        for actor in schedule:
            if actor == 4:
                found.cloud_dies()
                found.cloud_starts()
            elif not found.cloud.done:
                found.act(actor)
        assert found.play() == WHOLE


def test_a_rollback_takes_the_lineage_along() -> None:
    with world(refine=half, refining=PLAN, rounds=Rounds(total=3, devices=3, deadline=1000.0)) as found:
        found.play()
        number = found.journal.roll_back(2)
        made = versions(found.folder / "cloud")
        assert find(made, str(number)).refined == find(made, "2").refined is not None


def test_others_see_that_it_refines() -> None:
    said: list[Standing] = []

    def look(made: Made) -> Refined:
        said.append(standing(found.cloud, Standing("test")))
        return half(made)

    with world(refine=look, refining=PLAN) as found:
        found.play()
        assert [now.waiting for now in said] == ["refining the model of round 2: distil"]
        assert (said[0].round, said[0].reported) == (2, 3)
