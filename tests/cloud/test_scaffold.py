"""SCAFFOLD against the paper (Karimireddy et al. 2020, algorithm 1, option II), and in whole federations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from federations import DEADLINE, TOPICS, P, World, world
from numpy.typing import NDArray

from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.cloud.sums import Aggregate
from fedfleet.edge.controls import Controls
from fedfleet.edge.local import batch_seed, read_weights
from fedfleet.edge.private import Private
from fedfleet.edge.trainer import Stop
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.chunks import Offer, pack_offer
from fedfleet.wire.errors import FrameError, SettingsError, StoreError
from fedfleet.wire.messages import Blob, Control, Plan, Receipt, Task, Update, decode

K, LOCAL, GLOBAL = 7, 0.05, 0.8
Matrix = NDArray[np.float64]
SAMPLES = [(0, 1, 2, 3), (0, 2), (1, 2, 3), (3,), (0, 1), (0, 1, 2, 3), (2, 3)]


class Problem(NamedTuple):
    """Device i has the loss |A_i y - b_i|^2 / 2, and its own optimum."""

    a: Matrix
    b: Matrix

    def gradient(self, i: int, y: Matrix) -> Matrix:
        return np.asarray(self.a[i].T @ (self.a[i] @ y - self.b[i]))


@pytest.fixture
def problem() -> Problem:
    random = np.random.default_rng(8)
    return Problem(random.normal(size=(4, 6, 5)), 3 * random.normal(size=(4, 6)))


def scaffold(problem: Problem, samples: list[tuple[int, ...]]) -> list[Matrix]:
    """Algorithm 1, its lines as they are numbered there; the models after each round."""
    n = len(problem.a)
    x, c, ci = np.zeros(5), np.zeros(5), np.zeros((n, 5))
    seen = []
    for sample in samples:
        dy, dc = np.zeros((n, 5)), np.zeros((n, 5))
        for i in sample:
            y = x.copy()  # 7
            for _ in range(K):
                y = y - LOCAL * (problem.gradient(i, y) - ci[i] + c)  # 10
            plus = ci[i] - c + (x - y) / (K * LOCAL)  # 12, option II
            dy[i], dc[i] = y - x, plus - ci[i]  # 13
            ci[i] = plus  # 14
        x = x + GLOBAL * dy.sum(axis=0) / len(sample)  # 16, 17
        c = c + len(sample) / n * (dc.sum(axis=0) / len(sample))
        seen.append(x)
    return seen


def ours(problem: Problem, folder: Path, samples: list[tuple[int, ...]]) -> list[Matrix]:
    """The same by the strategy and the device's control variates, trained by the rule of the device program."""
    rule = strategy(f"scaffold:{GLOBAL}")
    assert rule.control is not None
    model, moments = np.zeros(5, np.float32), rule.server.moments(5)
    kept = [Private(folder / str(i), "d" * 64, np.zeros(5, np.float32)) for i in range(4)]
    seen = []
    for number, sample in enumerate(samples, 1):
        c = rule.control(moments, 4 if number > 1 else 0)
        found = rule.aggregate(rule.values(5))
        for i in sample:
            pair = Controls(c, kept[i].before(number))
            y = model.copy()
            for _ in range(K):
                y = y - np.float32(LOCAL) * (problem.gradient(i, y).astype(np.float32) + pair.correction)
            change = pair.change(y - model, K, LOCAL)
            kept[i].keep(number, pair.own + change)
            found.add(np.concatenate([y - model, change]), 1 + 50 * i)  # examples say nothing
        model, moments = rule.server.step(model, found.value(), moments)
        seen.append(model.astype(np.float64))
    return seen


def test_it_is_the_papers_algorithm(problem: Problem, tmp_path: Path) -> None:
    for mine, papers in zip(ours(problem, tmp_path, SAMPLES), scaffold(problem, SAMPLES), strict=True):
        np.testing.assert_allclose(mine, papers, rtol=1e-3, atol=1e-4)


def test_it_gets_to_the_common_optimum_which_fedavg_misses(problem: Problem, tmp_path: Path) -> None:
    best = np.linalg.lstsq(problem.a.reshape(-1, 5), problem.b.reshape(-1), rcond=None)[0]
    x = np.zeros(5)
    for _ in range(200):
        y = np.tile(x, (4, 1))
        for i in range(4 * K):
            y[i % 4] -= LOCAL * problem.gradient(i % 4, y[i % 4])
        x = y.mean(axis=0)
    assert np.linalg.norm(x - best) > 0.1
    np.testing.assert_allclose(scaffold(problem, [SAMPLES[0]] * 200)[-1], best, atol=1e-4)
    np.testing.assert_allclose(ours(problem, tmp_path, [SAMPLES[0]] * 200)[-1], best, atol=1e-3)


def folded(updates: list[NDArray[np.float32]]) -> Aggregate:
    found = strategy("scaffold").aggregate(6)
    for index, update in enumerate(updates):
        found.add(update, 1 + index)
    return found


def test_the_weights_are_averaged_and_the_changes_summed_in_any_order() -> None:
    updates = list(np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32))
    whole = folded(updates).value()
    np.testing.assert_allclose(whole[:3], np.mean(updates, axis=0)[:3], atol=1e-7)
    np.testing.assert_allclose(whole[3:], np.sum(updates, axis=0)[3:], atol=1e-6)
    left, right = folded(updates[3:]), folded(updates[2::-1])
    left.merge(right)
    assert left.value().tobytes() == whole.tobytes()
    with pytest.raises(FrameError, match="too much to be summed"):
        left.add(np.full(6, 2.0**33, np.float32), 1)
    assert left.value().tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("key", "plan"),
    [
        ("momentum", Plan(momentum=0.9)),
        ("second_moment", Plan(second_moment=0.99)),
        ("nesterov", Plan(nesterov=True)),
        ("weight_decay", Plan(weight_decay=0.1)),
        ("proximal", Plan(proximal=0.1)),
        ("clip_norm", Plan(clip_norm=1.0)),
    ],
)
def test_what_is_not_plain_sgd_is_refused(key: str, plan: Plan) -> None:
    with pytest.raises(SettingsError, match=f"^scaffold does not go with {key}: set it to (0|false), or choose"):
        strategy("scaffold").plan(plan)
    assert strategy("scaffold").plan(Plan(epochs=3)) == Plan(epochs=3)


def task(found: World) -> Task:
    return decode(Task, found.hub.retained[TOPICS.task])


def control(found: World) -> Control:
    named = task(found).control
    assert named is not None
    return named


def values(found: World) -> NDArray[np.float32]:
    return np.frombuffer(found.journal.blobs.get(control(found).blob.digest), "<f4")


def changed(now: Task, *devices: str) -> Matrix:
    """The sum of the second vectors that seeded trainers send in a round: noise, as they would send it."""

    def one(device: str) -> Matrix:
        raw = np.random.PCG64(batch_seed(now, device)).random_raw(2 * P)[P:]
        return ((raw >> np.uint64(40)).astype(np.float64) / 2**23 - 1) * 0.01

    return np.sum([one(device) for device in devices], axis=0)


def act_until_the_next(found: World) -> None:
    number = task(found).round
    while not found.cloud.done and task(found).round == number:
        for actor in range(found.devices + 1):
            found.act(actor)


def test_the_control_is_the_mean_over_all_who_have_contributed() -> None:
    rounds = Rounds(total=6, devices=4, share=0.4, deadline=DEADLINE)
    with world(strategy="scaffold", devices=4, rounds=rounds) as found:
        found.until(1)
        total, seen, sizes = np.zeros(P), set[str](), []
        while not found.cloud.done:
            now = task(found)
            np.testing.assert_allclose(values(found), total / max(len(seen), 1), atol=1e-7)
            assert (control(found).first, control(found).abandoned) == (1, ())
            called = [device for device in found.names if now.calls(device)]
            total += changed(now, *called)
            seen |= set(called)
            sizes.append(len(seen))
            act_until_the_next(found)
        assert sizes[0] < sizes[-1]


def test_a_device_fetches_the_control_and_all_is_cleared_in_the_end() -> None:
    with world(strategy="scaffold") as found:
        found.until(2)
        digests = {blob.digest for blob in task(found).needed}
        assert len(digests) == 3
        for actor in (1, 1, 1):
            found.act(actor)
        assert {path.name for path in (found.folder / "d0" / "blobs").iterdir()} == digests
        found.play()
        found.cloud.retire()
        assert found.blobs() == set()


class Reader:
    """A seeded trainer that reads the control as the real one does; before its `spoils`th task it spoils the file."""

    def __init__(self, device: str, spoils: int) -> None:
        self.inner, self.spoils, self.asked = SeededTrainer(device), spoils, 0

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Spoil, or read and train."""
        assert task.control is not None
        path, self.asked = weights.with_name(task.control.blob.digest), self.asked + 1
        if self.asked == self.spoils:
            path.write_bytes(bytes(path.stat().st_size - 1) + b"x")
        read_weights(path, path.name)
        return self.inner.train(task, program, weights, stop)

    def close(self) -> None:
        """Nothing was started."""


def test_a_control_that_has_rotted_is_fetched_anew_and_the_round_is_not_given_up() -> None:
    rounds = Rounds(total=2, devices=2, deadline=DEADLINE)
    reader = Reader("d1", 2)
    with world(strategy="scaffold", devices=2, rounds=rounds, trainers={"d1": reader}) as found:
        found.play()
        assert [(record.state, record.reported) for record in found.records] == [("closed", 2)] * 2
        assert reader.asked == 3


def test_an_update_without_the_second_vector_is_refused_by_its_size() -> None:
    with world(strategy="scaffold", rounds=Rounds(total=1, devices=3, deadline=DEADLINE)) as found:
        found.until(1)
        d9 = found.hub.connect()
        d9.subscribe(TOPICS.receipt("d9"))
        d9.publish(TOPICS.update("d9"), pack_offer(Offer(1, 10, "float32", Blob("a" * 64, 4 * P))))
        found.play()
        (receipt,) = (decode(Receipt, delivery.payload) for delivery in d9.deliveries(0))
        assert receipt == Receipt(1, "refused", reason=f"update has {4 * P} bytes, the model's take {8 * P}")


def test_what_was_contributed_to_an_abandoned_round_is_left_out_and_devices_are_told() -> None:
    rounds = Rounds(total=2, devices=3, quorum=3, deadline=DEADLINE)
    with world(strategy="scaffold", rounds=rounds) as found:
        found.until(2)
        wanted = values(found).tobytes()
        found.device_dies("d1")
        for _ in range(30):
            for actor in range(4):
                found.act(actor)
        found.now += DEADLINE
        found.act(0)
        assert task(found).round == 3 and control(found).abandoned == (2,)
        assert values(found).tobytes() == wanted
        assert [control(found).has(number) for number in (0, 1, 2, 3)] == [False, True, False, True]


def test_after_going_back_to_an_older_model_the_controls_begin_anew() -> None:
    rounds = Rounds(total=4, devices=3, deadline=DEADLINE)
    with world(strategy="scaffold", rounds=rounds) as found:
        found.until(4)
        assert values(found).any()
        found.cloud_dies()
        journal = Journal(found.folder / "cloud")
        number = journal.roll_back(2)
        journal.close()
        for _ in range(2):
            found.cloud_starts()
            for _ in range(9):
                found.act(0)
            assert not values(found).any()
            assert (control(found).first, control(found).has(3)) == (number, False)
            assert [found.journal.contributors(first) for first in (1, number)] == [3, 0]
            found.cloud_dies()
        found.cloud_starts()
        found.play()
        assert found.journal.closed_rounds() == 4


@pytest.mark.parametrize(("first", "then"), [("fedavgm", "scaffold"), ("scaffold", "fedavgm"), ("fedavg", "scaffold")])
@pytest.mark.parametrize("until", [1, 2])
def test_a_journal_is_not_gone_on_with_by_another_kind_of_strategy(first: str, then: str, until: int) -> None:
    with world(strategy=first) as found:
        found.until(until)
        found.cloud_dies()
        found.strategy = then
        with pytest.raises(StoreError, match="written with another strategy; go on with that, or choose another"):
            found.cloud_starts()
