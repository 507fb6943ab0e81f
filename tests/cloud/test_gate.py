"""Which model is promoted, and why not: by the table, in whole federations, and whoever is killed meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from federations import ALL, DEADLINE, PROGRAM, UNINTERRUPTED, weights, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.federated import Federated
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.gate import judged, note, settle
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import promote, versions
from fedfleet.cloud.settings import Evaluation, Rounds
from fedfleet.edge.trainer import Stop
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Blob, Plan, Task, Update

CLOSED = RoundRecord(1, "closed", "all", 2, 2, 0, 9, 0.5, 1, 1, 0.1, "w", 0.0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path / "j")
    yield found
    found.close()


def play(journal: Journal, number: int, evaluation: Evaluation, score: float | None, *, central: bool = True) -> str:
    """Round `number` ends, its model has that score, on the cloud's data or on devices; what the gate says."""
    journal.open_round(Task(number, Blob.of(PROGRAM), journal.blobs.put(b"model %d" % (number - 1)), Plan()), "fedavg")
    journal.close_round(number, b"model %d" % number, b"moments %d" % number)
    scores = {} if score is None else {evaluation.gate or "accuracy": score}
    if central:
        journal.score(number, scores)
        return judged(journal.folder, replace(CLOSED, round=number), evaluation, central=True).gate
    record = replace(CLOSED, round=number + 1, federated=Federated(number, 2, 9, 0, scores, {}))
    note(journal.folder, Federated(number, 2, 9, 0, scores, {}))
    return judged(journal.folder, record, evaluation, central=False).gate


def promoted(folder: Path) -> list[int]:
    return [version.round for version in versions(folder) if "promoted" in version.names]


@pytest.mark.parametrize("central", [True, False])
@pytest.mark.parametrize(
    ("gate", "good", "bad"), [("accuracy", 0.8, 0.7), ("rmse", 9.0, 9.5), ("mae", 1.0, 2.0), ("loss", 0.1, 0.2)]
)
def test_only_what_is_not_worse_is_promoted_and_the_reason_stands(
    journal: Journal, gate: str, good: float, bad: float, central: bool
) -> None:
    where = "on the cloud's data" if central else "on devices"
    evaluation = Evaluation("npz:held.npz", every=1, gate=gate)
    found = [play(journal, i, evaluation, score, central=central) for i, score in enumerate((good, bad, good, None), 1)]
    assert found == [
        f"model 1 promoted: {gate} {good:.4f} {where}, the first",
        f"model 2 not promoted: {gate} {bad:.4f} {where}, worse than {good:.4f} of model 1",
        f"model 3 promoted: {gate} {good:.4f} {where}, not worse than {good:.4f} of model 1",
        f"model 4 not promoted: no {gate} {where}",
    ]
    assert promoted(journal.folder) == [3]
    assert [f"model {version.round} {version.gate}" for version in versions(journal.folder)] == found


def test_a_tolerance_lets_a_little_pass(journal: Journal) -> None:
    evaluation = Evaluation("npz:held.npz", gate="accuracy", tolerance=0.05)
    for number, score in enumerate((0.80, 0.76, 0.70), 1):
        said = play(journal, number, evaluation, score)
    assert said.endswith("accuracy 0.7000 on the cloud's data, worse than 0.7600 of model 2 by more than 0.05")
    assert promoted(journal.folder) == [2]


def test_scores_of_two_kinds_are_never_compared(journal: Journal) -> None:
    evaluation = Evaluation("npz:held.npz", every=1, gate="accuracy")
    play(journal, 1, evaluation, 0.9)
    said = play(journal, 2, evaluation, 0.95, central=False)
    assert said == "model 2 not promoted: model 1, which is promoted, has no accuracy on devices to compare with"
    assert promoted(journal.folder) == [1]


@settings(max_examples=30)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1), st.just(float("nan"))), min_size=1, max_size=8))
def test_without_a_tolerance_what_is_promoted_never_gets_worse(scores: list[float | None]) -> None:
    evaluation, held = Evaluation("npz:held.npz", gate="accuracy"), list[float]()
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        try:
            for number, score in enumerate(scores, 1):
                said = play(journal, number, evaluation, score)
                if promoted(Path(folder)) == [number]:
                    assert score is not None and " promoted: " in said
                    held.append(score)
                else:
                    assert "not promoted" in said
                    assert score is None or score != score or score < held[-1]
        finally:
            journal.close()
    assert all(after >= before for before, after in pairwise(held))


def test_without_a_gate_nothing_is_promoted_and_an_abandoned_round_says_nothing(journal: Journal) -> None:
    assert play(journal, 1, Evaluation(), 0.9) == ""
    assert play(journal, 2, Evaluation(every=1), 0.9, central=False) == ""
    found = versions(journal.folder)
    assert (promoted(journal.folder), found[1].gate) == ([], "")
    assert found[1].federated is not None and found[1].federated.scores == {"accuracy": 0.9}
    lost = replace(CLOSED, state="abandoned", federated=Federated(1, 1, 1, 0))
    assert judged(journal.folder, lost, Evaluation(every=1, gate="loss"), central=False) == lost
    assert versions(journal.folder)[0].federated is None


def test_promotion_by_hand_looks_at_devices_where_the_cloud_has_no_data(journal: Journal) -> None:
    for number, score in ((1, 0.9), (2, 0.8)):
        play(journal, number, Evaluation(every=1), score, central=False)
    promote(journal.folder, "1")
    with pytest.raises(SettingsError, match=r"model 2 is worse than model 1, .*: accuracy 0.8000 against 0.9000"):
        promote(journal.folder, "2")
    journal.roll_back(1)
    again = versions(journal.folder)[-1]
    assert (again.round, again.origin, again.gate) == (3, 1, "")
    assert again.federated is not None and again.federated.scores == {"accuracy": 0.9}  # they are the same weights
    assert promote(journal.folder, "3").names == ("promoted",)


@pytest.mark.parametrize("central", [True, False])
def test_what_an_end_cut_off_is_decided_at_the_next_start(journal: Journal, central: bool) -> None:
    gate, none = Evaluation("npz:held.npz", every=1, gate="accuracy"), Evaluation(every=1)
    play(journal, 1, gate, 0.9, central=central)
    play(journal, 2, none, 0.95, central=central)  # scored, and then the end
    settle(journal.folder, none, central=central)
    assert promoted(journal.folder) == [1]
    for _ in range(2):
        settle(journal.folder, gate, central=central)
        assert promoted(journal.folder) == [2]
        assert versions(journal.folder)[1].gate.startswith("promoted: accuracy 0.9500")
    play(journal, 3, none, 0.5, central=central)
    journal.roll_back(1)
    settle(journal.folder, gate, central=central)  # of what a round has made; to go back is its owner's decision
    assert [version.gate.partition(":")[0] for version in versions(journal.folder)] == [
        "promoted", "promoted", "not promoted", ""
    ]  # fmt: skip


class Judging:
    """A device that trains as the seeded ones do, and whose word on weights is drawn from them."""

    def __init__(self, device: str, examples: int) -> None:
        self._seeded = SeededTrainer(device, examples)
        self._examples = examples
        self.asked: list[int] = []

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Return the seeded update, with what it says of the task's weights."""
        update = self._seeded.train(task, program, weights, stop)
        if update is None or not task.evaluate:
            return update
        self.asked.append(task.round)
        claims = {"eval_metric": right(task.weights.digest, self._examples), "eval_examples": float(self._examples)}
        return replace(update, metrics={**update.metrics, **claims, "eval_loss": 1.0})

    def close(self) -> None:
        """Nothing was started."""


def right(digest: str, examples: int) -> float:
    """How many of its examples a device has right with these weights."""
    return float(int(hashlib.sha256(f"{digest}{examples}".encode()).hexdigest()[:8], 16) % (examples + 1))


def judges(*devices: str) -> dict[str, Judging]:
    return {device: Judging(device, ALL[device]) for device in devices or ALL}


def accuracy(digest: str, *devices: str) -> float:
    own = [ALL[device] for device in devices or ALL]
    return sum(right(digest, examples) for examples in own) / sum(own)


START = Blob.of(weights().astype("<f4").tobytes()).digest


@pytest.mark.parametrize("downlink", ["", "int8"])
def test_what_devices_say_is_of_the_model_that_they_began_with(downlink: str) -> None:
    rounds = Rounds(total=4, devices=3, deadline=DEADLINE, downlink=downlink)
    with world(trainers=judges(), rounds=rounds, evaluation=Evaluation(every=1, gate="accuracy")) as found:
        found.play()
        made = versions(found.folder / "cloud")
        of = [record.federated for record in found.records]
        assert [one and (one.of, one.devices, one.examples, one.left_out) for one in of] == [
            (number, 3, 60, 0) for number in (0, 1, 2, 3)
        ]
        begun = [version.before for version in made]
        assert [one and one.scores["accuracy"] for one in of] == [accuracy(digest) for digest in begun]
        assert [version.federated for version in made] == [*of[1:], None]  # no round has begun with the last one
        assert made[0].gate.startswith("promoted: ")
        assert [record.gate for record in found.records] == [
            "", *(f"model {version.round} {version.gate}" for version in made[:-1])
        ]  # fmt: skip
        best = max(made[:-1], key=lambda version: (version.federated.scores["accuracy"], version.round))  # type: ignore[union-attr]
        assert "promoted" in best.names


def test_the_gate_changes_nothing_that_is_trained_and_every_nth_model_is_evaluated() -> None:
    trainers = judges()
    evaluation = Evaluation(every=2, gate="accuracy", data="npz:held.npz")
    with world(trainers=trainers, evaluation=evaluation, evaluate=lambda _: {"accuracy": 0.5}) as found:
        assert found.play() == UNINTERRUPTED
        assert trainers["d0"].asked == [1, 3]
        assert [record.federated and record.federated.of for record in found.records] == [0, None, 2]
        # the cloud's data go first: each round's own model is judged at its end
        assert [record.gate.split(",")[0] for record in found.records] == [
            f"model {n} promoted: accuracy 0.5000 on the cloud's data" for n in (1, 2, 3)
        ]
        assert promoted(found.folder / "cloud") == [3]


def test_an_older_device_takes_part_and_says_nothing() -> None:
    with world(trainers=judges("d1"), evaluation=Evaluation(every=1)) as found:
        assert found.play() == UNINTERRUPTED
        first = found.records[0].federated
        assert first is not None
        assert (first.devices, first.examples, first.scores["accuracy"]) == (1, 20, accuracy(START, "d1"))
    with world(evaluation=Evaluation(every=1, gate="accuracy")) as found:
        found.play()
        assert {(record.federated, record.gate) for record in found.records} == {(None, "")}


def test_who_was_not_asked_is_not_listened_to() -> None:
    class Talker(Judging):
        def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
            return super().train(replace(task, evaluate=True), program, weights, stop)

    with world(trainers={"d0": Talker("d0", 10)}) as found:
        found.play()
        assert {record.federated for record in found.records} == {None}


@settings(max_examples=15)
@given(st.lists(st.integers(0, 7), max_size=50))
def test_whoever_is_killed_the_evaluation_is_the_same(schedule: list[int]) -> None:
    """4 to 6: a device loses its power and comes back. 7: the aggregator does."""
    with world(trainers=judges(), evaluation=Evaluation(every=1)) as found:
        for actor in schedule:
            if actor == 7:
                found.cloud_dies()
                found.cloud_starts()
            elif 4 <= actor < 7:
                found.device_dies(f"d{actor - 4}")
                found.device_starts(f"d{actor - 4}")
            elif not found.cloud.done:
                found.act(actor)
        found.play()
        made = versions(found.folder / "cloud")
        judged_here = [version.federated for version in made if version.federated]
        assert [(one.of, one.devices, one.scores["accuracy"]) for one in judged_here] == [
            (version.round, 3, accuracy(version.weights)) for version in made[:-1]
        ]


def test_what_devices_said_survives_an_end_between_closing_and_scoring() -> None:
    ends = iter([False, True, False, True, False])

    def scored(_: object) -> dict[str, float]:
        if next(ends, False):
            raise KeyboardInterrupt
        return {"accuracy": 0.5}

    evaluation = Evaluation("npz:held.npz", every=1, gate="accuracy")
    with world(trainers=judges(), evaluation=evaluation, evaluate=scored) as found:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                found.play()
            found.cloud_dies()
            found.cloud_starts()
        assert found.cloud.done
        made = versions(found.folder / "cloud")
        assert [one.federated and one.federated.scores["accuracy"] for one in made] == [
            *(accuracy(version.weights) for version in made[:-1]), None
        ]  # fmt: skip
        assert found.digest == UNINTERRUPTED
        assert (promoted(found.folder / "cloud"), {bool(version.gate) for version in made}) == ([3], {True})
