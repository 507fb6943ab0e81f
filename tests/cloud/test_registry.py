"""Models by their lineage: who made them out of what, which one has a name, and the way back to an older one."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from federations import ALL, DEADLINE, PROGRAM, TOPICS, World, fedavg, weights, world
from processes import until

from fedfleet.cloud.journal import KEPT, Journal
from fedfleet.cloud.registry import drop_programs, exported, find, programs_of, promote, versions
from fedfleet.cloud.settings import Rounds
from fedfleet.models.compiled import Compiled, Entry, load
from fedfleet.wire.errors import SettingsError, StoreError
from fedfleet.wire.messages import Blob, Plan, Task, decode


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path / "j")
    yield found
    found.close()


def play(journal: Journal, number: int, **scores: float) -> None:
    journal.open_round(Task(number, Blob.of(PROGRAM), journal.blobs.put(b"model %d" % (number - 1)), Plan()), "fedavg")
    journal.close_round(number, b"model %d" % number, b"moments %d" % number)
    journal.score(number, scores)


def held(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / "blobs").iterdir()}


def named(folder: Path) -> dict[str, int]:
    return {name: version.round for version in versions(folder) for name in version.names}


def test_every_round_tells_where_its_model_comes_from() -> None:
    rounds = Rounds(total=KEPT + 2, devices=3, deadline=DEADLINE)
    with world(rounds=rounds, strategy="fedprox", evaluate=lambda found: {"loss": float(found.sum())}) as found:
        digest = found.play()
        made = versions(found.folder / "cloud")
        assert [version.round for version in made] == [1, 2, 3, 4, 5]
        assert [version.kept for version in made] == [False, False, True, True, True]
        start = Blob.of(weights().astype("<f4").tobytes()).digest
        assert [version.before for version in made] == [start, *(version.weights for version in made[:-1])]
        assert [version.weights for version in made] == [record.weights for record in found.records]
        assert made[-1].weights == digest
        for version, record in zip(made, found.records):
            assert (version.contributors, version.examples, version.state) == (ALL, 60, "closed")
            assert (version.strategy, version.plan["proximal"], version.origin) == ("fedprox", 0.01, None)
            assert version.program == Blob.of(PROGRAM).digest
            assert version.scores == record.scores != {}
            assert "2020" < version.began <= version.ended


def test_a_model_with_a_name_stays_until_another_has_the_name(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "j"
    for number in range(1, 8):
        play(journal, number, accuracy=number / 10)
        if number in (1, 2):
            promote(folder, str(number), ("promoted", "plant-3")[number - 1])
    assert {b"model 1", b"moments 1", b"model 2", b"moments 2"} < held(folder)
    assert [version.round for version in versions(folder) if version.kept] == [1, 2, 5, 6, 7]
    assert promote(folder, "7").names == ("promoted",)
    play(journal, 8)
    assert named(folder) == {"plant-3": 2, "promoted": 7}
    assert [version.round for version in versions(folder) if version.kept] == [2, 6, 7, 8]
    assert b"model 1" not in held(folder)


@pytest.mark.parametrize(
    ("metric", "better", "worse"), [("accuracy", 0.9, 0.8), ("rmse", 11.0, 12.0), ("mae", 1.0, 1.5), ("loss", 0.1, 0.2)]
)
def test_a_worse_model_is_refused_with_both_figures(
    journal: Journal, tmp_path: Path, metric: str, better: float, worse: float
) -> None:
    for number, value in ((1, better), (2, worse), (3, better)):
        play(journal, number, **{metric: value})
    folder = tmp_path / "j"
    promote(folder, "1")
    text = f"model 2 is worse than model 1, which is promoted: {metric} {worse:.4f} against {better:.4f}; --force"
    with pytest.raises(SettingsError, match=text):
        promote(folder, "2")
    assert named(folder) == {"promoted": 1}
    promote(folder, "2", force=True)
    assert named(folder) == {"promoted": 2}
    promote(folder, "3")
    promote(folder, "promoted")  # as good as itself
    assert named(folder) == {"promoted": 3}


def test_accuracy_counts_for_more_than_loss(journal: Journal, tmp_path: Path) -> None:
    play(journal, 1, loss=0.1, accuracy=0.5)
    play(journal, 2, loss=0.2, accuracy=0.6)
    for number in "12":
        promote(tmp_path / "j", number)
    assert named(tmp_path / "j") == {"promoted": 2}


@pytest.mark.parametrize("scores", [{}, {"loss": math.nan}, {"loss": math.inf}])
def test_a_model_without_a_figure_is_promoted_only_by_force(
    journal: Journal, tmp_path: Path, scores: dict[str, float]
) -> None:
    play(journal, 1, loss=0.1)
    play(journal, 2, **scores)
    promote(tmp_path / "j", "1")
    with pytest.raises(
        SettingsError, match="model 2 and model 1, which is promoted, have no metric in common; --force"
    ):
        promote(tmp_path / "j", "2")
    assert find(versions(tmp_path / "j"), "2").scores == dict.fromkeys(scores)
    assert promote(tmp_path / "j", "2", force=True).round == 2


def test_what_is_not_there_or_not_kept_is_named(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with pytest.raises(SettingsError, match="no model '1'; kept are none yet"):
        promote(folder, "1")
    for number in range(1, 5):
        play(journal, number)
    with pytest.raises(SettingsError, match="no model 'best'; kept are 2, 3, 4"):
        find(versions(folder), "best")
    with pytest.raises(SettingsError, match="the weights of model 1 are not kept any more; kept are 2, 3, 4"):
        promote(folder, "1")
    for name in ("7", "Best", "", "a" * 37):
        with pytest.raises(SettingsError, match="is no name; take 1 to 36 characters"):
            promote(folder, "4", name)
    with pytest.raises(StoreError, match="the model of round 1 is not kept; choose one that is"):
        journal.roll_back(1)
    assert named(folder) == {}


def test_a_model_that_is_being_removed_gets_no_name(journal: Journal, tmp_path: Path) -> None:
    """A removal of many models, as of an end that cut off the ones before; a name is asked for in the middle of it."""
    folder, many = tmp_path / "j", 300
    for number in range(1, many):
        journal.open_round(Task(number, Blob.of(PROGRAM), Blob.of(b"model %d" % (number - 1)), Plan()))
    with closing(sqlite3.connect(folder / "journal.sqlite")) as database:
        for number in range(1, many):
            blob = Blob.of(b"model %d" % number).digest
            (folder / "blobs" / blob).write_bytes(b"model %d" % number)
            row = (blob, blob, blob, number)
            database.execute(
                "UPDATE rounds SET state = 'closed', made = ?, weights = ?, moments = ? WHERE round = ?", row
            )
        database.commit()
    first, said = folder / "blobs" / Blob.of(b"model %d" % (many - KEPT)).digest, list[str]()

    def name_the_last_to_go() -> None:
        assert until(lambda: not first.exists())
        try:
            said.append(str(promote(folder, "1")))
        except SettingsError as error:
            said.append(str(error))

    other = Thread(target=name_the_last_to_go)
    other.start()
    play(journal, many)
    other.join()
    assert said == ["the weights of model 1 are not kept any more; kept are 298, 299, 300"]
    assert named(folder) == {}


def in_round_3(found: World) -> None:
    """Let the third round be open, with an update that has been counted."""
    found.until(3)
    while not found.cloud.progress()[2]:
        for actor in (1, 0):
            found.act(actor)


@pytest.mark.parametrize("downlink", ["", "int8"])
@pytest.mark.parametrize("back", [1, 2])
def test_after_a_rollback_the_fleet_goes_on_from_the_older_weights(downlink: str, back: int) -> None:
    with world(rounds=Rounds(total=3, devices=3, deadline=DEADLINE, downlink=downlink)) as found:
        in_round_3(found)
        found.cloud_dies()
        journal = Journal(found.folder / "cloud")
        assert journal.roll_back(back) == 4
        older, again = find(versions(found.folder / "cloud"), str(back)), versions(found.folder / "cloud")[-1]
        assert (again.round, again.state, again.origin, again.weights) == (4, "rolled back", back, older.weights)
        assert (journal.open_task(), list((found.folder / "cloud" / "updates").iterdir())) == (None, [])
        journal.close()
        found.cloud_starts()
        found.until(5)
        assert decode(Task, found.hub.retained[TOPICS.task]).weights.digest == older.weights
        found.play()
        if back == 1 or not downlink:  # the second round began from what the codec made of the first
            assert found.digest == fedavg({n: ALL for n in (1, 2, 5) if n <= back or n == 5})
        assert [version.round for version in versions(found.folder / "cloud")] == [1, 2, 4, 5]
        found.cloud.retire()
        assert found.blobs() == set()


def test_a_rollback_takes_the_server_optimizer_back_as_well() -> None:
    with world(strategy="fedavgm") as found:
        in_round_3(found)
        before = found.journal.model()
        assert before is not None
        found.cloud_dies()
        journal = Journal(found.folder / "cloud")
        journal.roll_back(1)
        model, moments = journal.model(), versions(found.folder / "cloud")
        assert model is not None and model.round == 4 and moments[-1].origin == 1
        assert model.moments != before.moments
        assert len(journal.blobs.get(model.moments)) == len(journal.blobs.get(before.moments))
        journal.close()
        found.cloud_starts()
        found.play()


def test_a_rollback_to_what_has_rotted_changes_nothing(journal: Journal, tmp_path: Path) -> None:
    for number in (1, 2):
        play(journal, number)
    (tmp_path / "j" / "blobs" / Blob.of(b"moments 1").digest).write_bytes(b"moments x")
    with pytest.raises(StoreError, match="is missing or damaged; restore a backup"):
        journal.roll_back(1)
    assert (journal.last_round(), len(versions(tmp_path / "j"))) == (2, 2)


def test_what_is_exported_is_the_program_with_those_weights(journal: Journal, tmp_path: Path) -> None:
    folder, layout = tmp_path / "j", (Entry("w", (2,), 0, 2), Entry("own", (1,), 2, 1, shared=False))
    start = np.array([1, 2, 3], np.float32)
    compiled = Compiled(PROGRAM, start, layout, "mean_squared_error", 4, (2,), (1,))
    journal.open_round(Task(1, journal.blobs.put(PROGRAM), journal.blobs.put(start[:2].tobytes()), Plan()))
    trained = np.array([8, 9], np.float32)
    journal.close_round(1, trained.tobytes(), b"moments")
    found = find(versions(folder), "1")
    with pytest.raises(StoreError, match="is missing; start the aggregator of this program once"):
        exported(folder, found)
    compiled.save(programs_of(folder) / compiled.digest)
    exported(folder, found).save(tmp_path / "out")
    again = load(tmp_path / "out")
    assert (again.program, again.weights.tolist()) == (PROGRAM, [8, 9, 3])
    (folder / "blobs" / found.weights).write_bytes(bytes(8))
    with pytest.raises(StoreError, match="is missing or damaged; choose a version that is kept"):
        exported(folder, found)


def test_programs_stay_as_long_as_a_model_of_theirs(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "j"
    digests = [Blob.of(b"program %d" % number).digest for number in range(KEPT + 3)]
    for number, digest in enumerate(digests[:-1], 1):  # each round with a program of its own; the last has none yet
        journal.open_round(Task(number, Blob(digest, 9), journal.blobs.put(b"before %d" % number), Plan()))
        journal.close_round(number, b"model %d" % number, b"moments")
        (programs_of(folder) / digest).mkdir(parents=True)
        (programs_of(folder) / digest / "program.tflite").write_bytes(b"program")
        if number == 1:
            promote(folder, "1")
    (programs_of(folder) / digests[-1]).mkdir()
    drop_programs(folder, digests[-1])
    assert {path.name for path in programs_of(folder).iterdir()} == {digests[0], *digests[2:]}
    drop_programs(folder, digests[0])
    assert {path.name for path in programs_of(folder).iterdir()} == {digests[0], *digests[2:-1]}
