"""A model that some devices get first: promoted for all, or taken back, whoever is killed in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
from commands import run
from federations import ALL, DEADLINE, PROGRAM, SEED, TOPICS, World, sha256, weights, world

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.registry import find, versions
from fedfleet.cloud.rollout import canary
from fedfleet.cloud.rollout.canary import Canary
from fedfleet.cloud.settings import Evaluation, Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.trainer import Stop
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.calling import Ability
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan, Task, Update

GATE = Evaluation(every=1, gate="accuracy")
TAGS = ("canary",)
SCORES = dict[str, float]  # accuracy by the digest of weights


class Judging:
    """A device that trains as the seeded ones do, and has so many of its examples right as `scores` says."""

    def __init__(self, device: str, scores: SCORES) -> None:
        self.examples = ALL[device]
        self._seeded = SeededTrainer(device, self.examples)
        self._scores = scores
        self.saw: list[str] = []

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        update = self._seeded.train(task, program, weights, stop)
        self.saw.append(task.weights.digest)
        if update is None or not task.evaluate:
            return update
        right = self._scores.get(task.weights.digest, 0.5) * self.examples
        claims = {"eval_metric": right, "eval_examples": float(self.examples), "eval_loss": 1.0}
        return replace(update, metrics={**update.metrics, **claims})

    def close(self) -> None:
        """Nothing was started."""


class Fleet:
    """Three devices, of which `d0` is a canary, and two rounds behind them: model 1 is promoted, and 2 is not."""

    def __init__(self, found: World, scores: SCORES, trainers: dict[str, Judging]) -> None:
        self.world, self.scores, self.trainers = found, scores, trainers
        self.rounds = found.rounds

    def play_first_rounds(self) -> None:
        self.scores[self.start] = 0.1
        turns = cycle(range(4))
        while self.world.journal.closed_rounds() < 1:
            self.world.act(next(turns))
        self.scores[self.weights_of(1)] = 0.8
        while self.world.journal.closed_rounds() < 2:
            self.world.act(next(turns))
        self.scores[self.weights_of(2)] = 0.6
        while self.world.journal.closed_rounds() < 3:
            self.world.act(next(turns))
        assert self.promoted() == 1
        self.world.cloud_dies()
        self.world.cloud_starts()

    @property
    def start(self) -> str:
        return sha256(weights().astype("<f4").tobytes())

    @property
    def folder(self) -> Path:
        return self.world.folder / "cloud"

    def weights_of(self, model: int) -> str:
        return find(versions(self.folder), str(model)).weights

    def forget(self) -> None:
        """Forget what devices have seen so far."""
        for trainer in self.trainers.values():
            trainer.saw.clear()

    def promoted(self) -> int:
        return find(versions(self.folder), "promoted").round

    def go(self, steps: int = 400, kill: Callable[[int], bool] = lambda _: False) -> list[str]:
        """Run what `fedfleet aggregate` runs, and return what it says; `kill` ends it at a step, and it starts anew."""
        said: list[str] = []
        left = [steps]

        def build(federation: Federation) -> Aggregator:
            found = (TOPICS, self.world.cloud_bus, self.world.journal, lambda: self.world.now)
            self.world.cloud = Aggregator(federation, *found, None, self.world.records.append)
            return self.world.cloud

        def drive(aggregator: Aggregator, until: Callable[[], bool]) -> None:
            turns = cycle(range(4))
            while not aggregator.done and not until() and left[0] > 0:
                left[0] -= 1
                self.world.act(next(turns))
                if kill(left[0]):
                    raise KeyboardInterrupt
            if left[0] <= 0:
                raise TimeoutError

        federation = Federation(PROGRAM, weights(), strategy("fedavg"), Plan(), self.rounds, SEED, "fedavg", GATE)
        while left[0] > 0:
            try:
                canary.staged(self.world.journal, federation, build, drive, said.append)
                break
            except KeyboardInterrupt:
                self.world.cloud_dies()
                self.world.cloud_starts()
            except TimeoutError:
                break
        return said


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    scores: SCORES = {}
    trainers = {device: Judging(device, scores) for device in ALL}
    abilities = {"d0": Ability(TAGS)}
    rounds = Rounds(total=6, devices=3, deadline=DEADLINE)
    with world(trainers=trainers, abilities=abilities, rounds=rounds, evaluation=GATE) as found:
        fleet = Fleet(found, scores, trainers)
        fleet.play_first_rounds()
        yield fleet


def saw(fleet: Fleet, digest: str) -> set[str]:
    return {device for device, trainer in fleet.trainers.items() if digest in trainer.saw}


def test_a_model_that_is_worse_on_the_canaries_is_seen_by_them_alone_and_taken_back(fleet: Fleet) -> None:
    bad, good = fleet.weights_of(2), fleet.weights_of(1)
    fleet.forget()
    found = canary.start(fleet.world.journal, "2", GATE, TAGS)
    assert (found.origin, found.before, found.by) == (2, 1, "accuracy")
    said = fleet.go()
    assert said == [f"model {found.model} taken back: accuracy 0.6000 on 1 devices, worse than 0.8000 of model 1"]
    assert saw(fleet, bad) == {"d0"}
    assert saw(fleet, good) == {"d0", "d1", "d2"}
    assert find(versions(fleet.folder), "promoted").weights == good


def test_a_model_that_is_better_on_the_canaries_is_promoted_and_goes_to_all(fleet: Fleet) -> None:
    better = fleet.weights_of(2)
    fleet.scores[better] = 0.9
    fleet.forget()
    found = canary.start(fleet.world.journal, "2", GATE, TAGS)
    said = fleet.go()
    assert said == [f"model {found.model} promoted: accuracy 0.9000 on 1 devices, not worse than 0.8000 of model 1"]
    assert find(versions(fleet.folder), "promoted").weights == better
    assert saw(fleet, better) == {"d0"}  # they evaluated it and trained on: the others get what came of that
    assert fleet.trainers["d2"].saw


def test_on_the_owners_word_it_is_taken_back_at_once(fleet: Fleet) -> None:
    fleet.scores[fleet.weights_of(2)] = 0.9
    found = canary.start(fleet.world.journal, "2", GATE, TAGS)
    canary.order_back(fleet.folder, "a customer called")
    assert fleet.go() == [f"model {found.model} taken back: a customer called"]
    assert find(versions(fleet.folder), "promoted").weights == fleet.weights_of(1)
    with pytest.raises(SettingsError, match="no model is on its way"):
        canary.order_back(fleet.folder, "again")


@pytest.mark.parametrize("at", range(0, 60, 3))
@pytest.mark.parametrize("score", [0.6, 0.9])
def test_whenever_the_aggregator_is_killed_the_outcome_is_the_same(at: int, score: float, fleet: Fleet) -> None:
    bad = fleet.weights_of(2)
    fleet.scores[bad] = score
    fleet.forget()
    canary.start(fleet.world.journal, "2", GATE, TAGS)
    fleet.go(kill=lambda left: left == 400 - 1 - at)
    record = canary.kept(fleet.folder).there()
    assert record.ended.startswith("promoted" if score > 0.8 else "taken back")
    assert find(versions(fleet.folder), "promoted").weights == (bad if score > 0.8 else fleet.weights_of(1))
    assert saw(fleet, bad) <= {"d0"}


def test_what_is_settled_twice_is_settled_once(fleet: Fleet) -> None:
    found = canary.start(fleet.world.journal, "2", GATE, TAGS)
    decision = canary.Decision(good=False, why="no")
    for _ in range(3):
        canary.settled(fleet.world.journal, found, decision)
    assert [each.origin for each in versions(fleet.folder)[-2:]] == [2, 1]


def test_a_start_that_was_cut_off_before_anything_was_brought_is_none(fleet: Fleet) -> None:
    cut = Canary(fleet.world.journal.last_round() + 1, 2, 1, TAGS, "accuracy")
    canary.kept(fleet.folder).change(lambda _: cut)
    assert canary.open_(fleet.folder) is None


def test_what_makes_no_sense_is_refused(fleet: Fleet) -> None:
    for which, evaluation, words in (
        ("1", GATE, "model 1 is the promoted one"),
        ("9", GATE, "no model '9'"),
        ("2", Evaluation(every=1), "evaluation.gate is not set"),
        ("2", replace(GATE, gate="rmse"), "has no rmse on devices"),
    ):
        with pytest.raises(SettingsError, match=words):
            canary.start(fleet.world.journal, which, evaluation, TAGS)
    canary.start(fleet.world.journal, "2", GATE, TAGS)
    with pytest.raises(SettingsError, match="another model is on its way already"):
        canary.start(fleet.world.journal, "3", GATE, TAGS)


def test_its_rounds_call_its_devices_alone_whatever_rounds_are_like() -> None:
    rounds = Rounds(total=5, devices=50, cohort=20, over=1.5, quorum=10, tags=("pump",))
    federation = Federation(PROGRAM, weights(), strategy("fedavg"), Plan(), rounds)
    alone = canary.confined(federation, Canary(4, 2, 1, TAGS, "accuracy", devices=3))
    assert alone.rounds == Rounds(total=5, devices=3, quorum=3, tags=("canary", "pump"))
    assert alone.evaluation.every == 1
    assert canary.confined(federation, None) == federation


def test_the_operator_starts_it_with_the_aggregator_stopped_and_sees_where_it_is(fleet: Fleet) -> None:
    file = fleet.world.folder / "fleet.toml"
    tables = '[evaluation]\nevery = 1\ngate = "accuracy"\n'
    file.write_text(f'fleet = "test"\nmodel = "model"\nstate = "cloud"\n{tables}')
    words = ("rollout", "model", str(file), "2", "--tag", "canary")
    assert "is in use" in run(*words)
    fleet.world.cloud_dies()
    assert "devices must be at least 1" in run(*words, "--devices", "0")
    said = run(*words)
    assert "model 2, brought as model" in said
    assert "waits for 1 devices with canary" in said
    assert "to be taken back: no" in run("rollout", "abort", str(file), "--model", "--reason", "no")
    fleet.world.cloud_starts()
    fleet.go()
    whole = json.loads(run("rollout", "status", str(file), "--json"))
    assert whole["rollout"] is None
    assert whole["model"]["ended"] == "taken back: no"
