"""Asynchronous rounds: a buffer of updates, those of earlier rounds for less, each once, whoever is started anew."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from federations import (
    ALL,
    DEADLINE,
    PROGRAM,
    SEED,
    TOPICS,
    UNINTERRUPTED,
    P,
    World,
    fedavg,
    never,
    sha256,
    weights,
    world,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.federated import Measure
from fedfleet.cloud.gate import examined
from fedfleet.cloud.intake import Intake
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import versions
from fedfleet.cloud.rounds import Round
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import outdated
from fedfleet.cloud.sums import Mean, discounted
from fedfleet.edge.trainer import Stop
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Delivery
from fedfleet.wire.chunks import split
from fedfleet.wire.codecs import grow
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.loopback import Hub
from fedfleet.wire.messages import Blob, Plan, Receipt, Task, Update, decode

LIMIT = 60.0
SIZE = 4


def update(device: str, number: int = 5, value: float = 1.0, data: bytes = b"") -> Update:
    return Update(number, device, 10, "float32", data or np.full(SIZE, value, "<f4").tobytes())


def fresh(*present: str, staleness: int = 2, target: int = 3, quorum: int = 1, **options: object) -> Round:
    task = Task(5, Blob("a" * 64, 9), Blob("b" * 64, 4 * SIZE), Plan(), deadline=LIMIT, staleness=staleness)
    return Round(task, SIZE, Mean.empty(SIZE), quorum, present, target=target, **options)  # type: ignore[arg-type]


def test_what_is_old_counts_for_less_and_its_device_is_still_waited_for() -> None:
    found = fresh("a", "b")
    assert found.take(update("a", 3, 3.0)) == Receipt(3, "counted")
    assert found.verdict(1).reason == "1 reported, quorum 1, 3 wanted; waiting for a, b"
    found.take(update("a", 5, 1.0))
    assert found.verdict(1).reason == "2 reported, quorum 1, 3 wanted; waiting for b"
    value = (float(np.float32(3 / math.sqrt(3))) + 1) / 2  # by Nguyen et al. 2022: over all that are in the buffer
    assert found.aggregate.value() == pytest.approx([value] * SIZE, abs=2**-30)
    assert (list(found.counted), list(found.stale), found.reported) == (["a"], [(3, "a")], 2)


def test_it_closes_when_the_buffer_is_full() -> None:
    found = fresh("a", "b", "c", "d")
    for number, device in ((5, "a"), (4, "b")):
        found.take(update(device, number))
        assert found.verdict(1).state == "open"
    found.take(update("b", 5))
    assert found.verdict(1) == ("closed", "2 of 4 and 1 of earlier rounds reported, 3 were wanted")


def test_it_closes_where_all_that_are_there_have_brought_this_rounds_update() -> None:
    found = fresh("a", target=9)
    found.take(update("b", 4))
    found.take(update("a", 5))
    reason = "all 1 present devices that were called have reported, and 1 of earlier rounds"
    assert found.verdict(1) == ("closed", reason)


def test_the_deadline_holds_for_a_buffer_that_does_not_fill() -> None:
    found = fresh("a", "b", quorum=2)
    found.take(update("a", 4))
    assert found.verdict(LIMIT).state == "abandoned"
    found.take(update("b", 4))
    assert found.verdict(LIMIT) == ("closed", "deadline of 60 s with 0 of 2 and 2 of earlier rounds reported")


@pytest.mark.parametrize(("number", "staleness", "oldest"), [(2, 2, 1), (4, 0, 1), (6, 9, 1), (3, 9, 4)])
def test_what_is_too_old_or_from_another_line_is_refused(number: int, staleness: int, oldest: int) -> None:
    found = fresh("a", staleness=staleness, oldest=oldest)
    assert found.foresee("a", number) == found.take(update("a", number))
    assert found.take(update("a", number)).reason == f"round {number} is over, the task is round 5"
    assert found.reported == 0


def test_each_counts_once_whichever_buffer_it_came_to() -> None:
    found = fresh("a", "b", earlier={(4, "a")})
    assert found.take(update("a", 4)) == Receipt(4, "counted")
    assert found.reported == 0
    for value in (1.0, 9.0):
        assert found.take(update("b", 4, value)) == Receipt(4, "counted")
    assert found.reported == 1
    assert found.foresee("a", 5) is None  # what it learns from this round's model is another
    assert found.foresee("b", 3) is None


def test_an_old_update_that_is_damaged_does_not_take_the_device_out_of_this_round() -> None:
    found = fresh("a")
    assert found.take(update("a", 4, data=b"1234")).outcome == "refused"
    found.take(update("a", 4))
    found.decline("a", "no")
    found.take(update("a", 3))
    assert (found.declined, found.verdict(1).state) == ({"a": "no"}, "closed")


@given(st.integers(0, 10**6), st.floats(-(2.0**20), 2.0**20, width=32))
def test_the_weight_of_an_old_update(behind: int, value: float) -> None:
    found = discounted(np.array([value], np.float32), behind)
    assert found.dtype == np.float32
    assert abs(found[0]) <= abs(value)
    assert found[0] == pytest.approx(value * (1 + behind) ** -0.5, rel=1e-6, abs=1e-44)
    assert behind or found[0] == np.float32(value)


def test_a_buffer_of_the_whole_fleet_is_fedavg_to_the_bit() -> None:
    for staleness in (0, 5):
        rounds = Rounds(total=3, devices=3, deadline=DEADLINE, buffer=3, staleness=staleness)
        with world(rounds=rounds) as found:
            assert found.play() == UNINTERRUPTED


def test_a_buffer_without_staleness_takes_the_first_that_come() -> None:
    with world(rounds=Rounds(total=1, devices=3, deadline=DEADLINE, buffer=2)) as found:
        counted = found.play([0, *[1, 3, 0] * 20])
        assert found.records[0].reported == 2
        assert counted == fedavg({1: {name: ALL[name] for name in ("d0", "d2")}})


class Slow:
    """Comes to an end of the training once it is let; asks `stop` like any other."""

    def __init__(self, device: str, examples: int) -> None:
        self.inner = SeededTrainer(device, examples)
        self.held = True
        self.trained: list[int] = []

    def train(self, task: Task, program: object, path: object, stop: Stop) -> Update | None:
        """Return None, without having been stopped, as long as it is held."""
        if stop() or self.held:
            return None
        self.trained.append(task.round)
        return self.inner.train(task, program, path, stop)  # type: ignore[arg-type]

    def close(self) -> None: ...


def late(found: World, slow: Slow, number: int) -> None:
    """Let the slow device's update of round 1 come while round `number` is open."""
    found.until(number)
    slow.held = False


def learned(device: str, number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What a device always learns in a round, wherever it starts from."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        path.write_bytes(weights().astype("<f4").tobytes())
        task = Task(number, Blob.of(PROGRAM), Blob.of(path.read_bytes()), Plan(), seed=SEED)
        found = SeededTrainer(device).train(task, path, path, never)
        assert found is not None
        return grow(found.codec, found.delta, P)


def model(counted: list[dict[tuple[str, int], int]]) -> str:
    """Digest of the weights after rounds with these updates, device and round behind, and their examples."""
    now = weights()
    for number, taken in enumerate(counted, 1):
        total = np.zeros(P, object)
        for (device, behind), examples in taken.items():
            data = learned(device, number - behind)
            delta = data if not behind else (data.astype(np.float64) / math.sqrt(1 + behind)).astype(np.float32)
            total = total + np.array([round(float(x) * 2**30) for x in delta], object) * examples
        now = (now.astype(np.float64) + total.astype(np.float64) / (sum(taken.values()) * 2**30)).astype(np.float32)
    return sha256(now.astype("<f4").tobytes())


ASYNC = Rounds(total=4, devices=3, deadline=DEADLINE, buffer=2, staleness=2)


def taken(found: World) -> list[dict[tuple[str, int], int]]:
    """What the journal says of each round: device and rounds behind, and its examples."""
    rows = found.journal._run("SELECT round, device, task, examples FROM updates ORDER BY round")
    rounds: dict[int, dict[tuple[str, int], int]] = {}
    for number, device, task, examples in rows:
        rounds.setdefault(number, {})[device, number - task] = examples
    return [rounds[number] for number in sorted(rounds)]


@pytest.mark.parametrize("killed", [False, True])
def test_a_slow_device_ends_its_work_and_it_counts(killed: bool) -> None:
    slow = Slow("d2", 30)
    with world(rounds=ASYNC, trainers={"d2": slow}) as found:
        late(found, slow, 3)
        if killed:
            found.cloud_dies()
            found.cloud_starts()
        digest = found.play()
        assert slow.trained[0] == 1
        assert found.records[2].reported >= 2
        assert ("d2", 2) in taken(found)[2]
        assert digest == model(taken(found))
        assert digest != fedavg({1: ALL, 2: ALL, 3: ALL, 4: ALL})


def test_who_is_slower_than_the_staleness_begins_anew() -> None:
    slow = Slow("d2", 30)
    with world(rounds=Rounds(total=6, devices=3, deadline=DEADLINE, buffer=2, staleness=1), trainers={"d2": slow}) as w:
        late(w, slow, 3)
        assert w.play() == model(taken(w))
        assert 1 not in slow.trained and slow.trained
        assert all(behind <= 1 for each in taken(w) for _, behind in each)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 10), max_size=80), st.sampled_from(["float32", "int8"]))
def test_whatever_dies_each_update_counts_once_and_the_model_is_what_the_journal_says(
    schedule: list[int], codec: str
) -> None:
    slow = Slow("d2", 30)
    with world(rounds=ASYNC, trainers={"d2": slow}, plan=Plan(codec=codec)) as found:
        for actor in schedule:
            slow.held = actor % 3 > 0
            if found.cloud.done:
                break
            if actor <= 3:
                found.act(actor)
            elif actor == 4:
                found.cloud_dies()
                found.cloud_starts()
            elif actor <= 7:
                found.device_dies(f"d{actor - 5}")
                found.device_starts(f"d{actor - 5}")
        slow.held = False
        digest = found.play()
        rows = found.journal._run("SELECT device, task FROM updates")
        assert len(rows) == len(set(rows))
        assert codec != "float32" or digest == model(taken(found))


def test_only_a_mean_takes_old_updates() -> None:
    for name in ("fedavg", "fedprox", "fedadam:0.1"):
        outdated(name, 3)
    for name in ("scaffold", "fednova", "qfedavg", "median", "krum:1+fedavg", "clip:1"):
        outdated(name, 0)
        with pytest.raises(SettingsError, match=f"go into a mean alone, not {name.replace('+', '.')}: choose one of f"):
            outdated(name, 1)


@pytest.mark.parametrize("killed", [False, True])
def test_an_update_whose_receipt_was_lost_is_known_in_later_rounds(killed: bool) -> None:
    with world(rounds=ASYNC, trainers={"d2": Slow("d2", 30)}) as found:
        found.until(3)
        if killed:
            found.cloud_dies()
            found.cloud_starts()
        before = found.journal._run("SELECT round, device, task FROM updates")
        assert (1, "d0", 1) in before
        bus = found.hub.connect()
        bus.subscribe(TOPICS.receipt("d0"))
        for _ in range(2):  # one for those who are there, one for what they say
            found.act(0)
        bus.publish(TOPICS.update("d0"), split(Update(1, "d0", 10, "float32", bytes(4 * P)))[0])
        found.act(0)
        assert decode(Receipt, bus.deliveries(0)[-1].payload) == Receipt(1, "counted")
        assert found.journal._run("SELECT round, device, task FROM updates") == before


def test_updates_from_before_a_rollback_do_not_count_after_it() -> None:
    slow = Slow("d2", 30)
    rounds = Rounds(total=6, devices=3, deadline=DEADLINE, buffer=2, staleness=20)
    with world(rounds=rounds, trainers={"d2": slow}) as found:
        late(found, slow, 3)
        found.cloud_dies()
        journal = Journal(found.folder / "cloud")
        number = journal.roll_back(1)
        journal.close()
        found.cloud_starts()
        found.play()
        assert slow.trained[0] == 1  # it cannot know
        rows = found.journal._run("SELECT round, task FROM updates WHERE round > ?", number)
        assert rows and all(task > number for _, task in rows)


@pytest.mark.parametrize("staleness", [0, 1])
def test_an_upload_goes_on_over_the_end_of_a_round(tmp_path: Path, staleness: int) -> None:
    hub, journal = Hub(), Journal(tmp_path)
    bus, listener = hub.connect(), hub.connect()
    listener.subscribe(TOPICS.receipt("a"))
    intake = None
    offer, *parts = split(update("a", 4))
    for number, said in ((4, [offer]), (5, parts)):
        task = Task(number, Blob("a" * 64, 9), Blob("b" * 64, 4 * SIZE), Plan(), staleness=staleness)
        journal.open_round(task)
        round_ = Round(task, SIZE, Mean.empty(SIZE), 1, ("a",))
        intake = Intake(round_, bus, TOPICS, journal, lambda: 0.0, intake)
        for frame in said:
            intake.take("a", Delivery(TOPICS.update("a"), frame))
        intake.step()
    receipts = [decode(Receipt, payload) for _, payload in listener.deliveries(0)]
    assert receipts[0] == Receipt(4, "missing", (0,))
    assert receipts[1:] == [Receipt(4, "counted")] * staleness
    assert list(journal.updates(5)) == [update("a", 4)] * staleness
    assert list(journal.updates(4)) == []
    journal.close()


def test_the_journal_knows_who_was_counted_for_which_task(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in (3, 4, 5):
        journal.open_round(Task(number, Blob("a" * 64, 9), Blob("b" * 64, 16), Plan()))
    journal.count(update("a", 3), into=4)
    journal.count(update("a", 4), update("b", 4))
    journal.count(update("a", 5), update("b", 3), into=5)
    assert [(each.device, each.round) for each in journal.updates(4)] == [("a", 3), ("a", 4), ("b", 4)]
    assert journal.counted(3, 5) == {(3, "a"), (4, "a"), (4, "b")}
    assert journal.counted(4, 6) == {(4, "a"), (4, "b"), (5, "a")}
    assert journal.counted(5, 5) == set()
    journal.close_round(4, b"model", b"moments")
    (made,) = versions(tmp_path)
    assert (made.contributors, made.examples) == ({"a": 20, "b": 10}, 30)
    journal.close()


def test_what_devices_said_of_an_older_model_is_not_said_of_this_one(tmp_path: Path) -> None:
    journal, found = Journal(tmp_path), fresh("a", "b")
    found.task = replace(found.task, evaluate=True)
    for number, device, right in ((4, "a", 1.0), (5, "b", 7.0)):
        said = {"eval_loss": 1.0, "eval_metric": right, "eval_examples": 10.0}
        found.take(replace(update(device, number), metrics=said))
    said_of_it = examined(journal, found, Measure())
    journal.close()
    assert said_of_it is not None
    assert (said_of_it.devices, said_of_it.scores["accuracy"]) == (1, 0.7)
