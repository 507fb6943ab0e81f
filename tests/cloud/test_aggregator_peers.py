"""What devices, and journals of others, may say to an aggregator without harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federations import DEADLINE, PROGRAM, SEED, TOPICS, UNINTERRUPTED, P, weights, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.settings import Rounds
from fedfleet.wire.chunks import only_name, split
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Task, Update, decode


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_garbage_on_every_topic_is_dropped(data: st.DataObject) -> None:
    offered, part = split(Update(1, "d0", 1, "float32", bytes(4 * P)))
    garbage = st.one_of(
        st.binary(max_size=64),
        st.integers(1, len(offered) - 1).map(lambda n: offered[:n]),
        st.integers(1, len(part) - 4 * P - 1).map(lambda n: part[:n]),
    )
    with world() as found:
        topics = [TOPICS.task, TOPICS.status("d0"), TOPICS.update("d1"), TOPICS.receipt("d2"),
                  TOPICS.update("stranger"), TOPICS.status("UPPER"), TOPICS.update("x" * 40),
                  TOPICS.want("d0"), TOPICS.chunk(only_name(Blob.of(PROGRAM))), TOPICS.chunk("nonsense")]  # fmt: skip
        found.until(1)
        for _ in range(data.draw(st.integers(1, 12))):
            payload = data.draw(garbage.filter(bool))  # an empty one is how a retained message is cleared
            found.hub.publish(data.draw(st.sampled_from(topics)), payload, retain=False)
            found.act(data.draw(st.integers(0, 3)))
        assert found.play() == UNINTERRUPTED


def test_garbage_of_a_device_does_not_close_the_round_without_it() -> None:
    with world() as found:
        found.until(1)
        while found.cloud.progress()[2] < 2:
            for actor in (1, 3, 0):
                found.act(actor)
        for payload in (b"garbage", b"FLT1", b""):
            found.hub.publish(TOPICS.update("d1"), payload, retain=False)
            found.act(0)
        assert found.cloud.waiting() == "2 reported, quorum 1; waiting for d1"
        found.hub.publish(TOPICS.update("d1"), split(Update(1, "d1", 1, "float32", b"1234"))[0], retain=False)
        found.act(0)
        assert found.records[0].reason.endswith("1 declined, d1: update has 4 bytes, the model's take 160")


def test_absurd_metrics_do_not_end_the_aggregator() -> None:
    class Boaster:
        def train(self, task: Task, program: Path, weights: Path, stop: object) -> Update:
            absurd = {"loss": -1e308, "down": 1e308, "rss_mib": 1e308}
            return Update(task.round, "x", 10, "float32", bytes(4 * P), absurd)

        def close(self) -> None: ...

    with world(trainers={"d0": Boaster(), "d1": Boaster()}) as found:
        found.play()
        assert found.records[0].train_loss >= -(2.0**53)
        assert found.records[0].device_rss_mib == 2.0**53


def test_a_delta_with_the_bytes_of_the_model_does_not_take_it_along() -> None:
    # from zero weights the only device's difference is the next model, byte for byte
    with world(devices=1, rounds=Rounds(total=3, devices=1, deadline=DEADLINE)) as found:
        found.cloud_dies()
        found.folder = found.folder / "zeros"
        found.cloud_starts()
        found.cloud.weights = np.zeros(P, np.float32)
        found.until(2)
        found.cloud_dies()
        found.cloud_starts()
        found.play()
        assert len(found.records) == 3


def test_a_journal_of_another_strategy_or_model_is_refused() -> None:
    with world() as found:
        found.until(2)
        found.cloud_dies()
        found.strategy = "fedavgm"
        with pytest.raises(StoreError, match="with strategy fedavg; go on with that, or choose another state folder"):
            found.cloud_starts()
        found.journal.close()


@pytest.mark.parametrize("name", ["fedavgm", "fedprox"])
def test_the_other_strategies_survive_a_new_start_as_well(name: str) -> None:
    with world(strategy=name) as whole:
        wanted = whole.play()
        assert decode(Task, whole.hub.retained[TOPICS.task]).plan.proximal == (0.01 if name == "fedprox" else 0)
    with world(strategy=name) as found:
        for number in (1, 2, 3):
            found.until(number)
            found.cloud_dies()
            found.cloud_starts()
        assert found.play() == wanted
        assert (found.digest == UNINTERRUPTED) is (name == "fedprox")


def test_evaluation_scores_the_weights_of_the_round() -> None:
    with world() as found:
        found.cloud._evaluate = lambda w: {"peak": float(w.max())}
        found.play()
        assert found.records[-1].scores == {"peak": float(found.cloud.weights.max())}
        assert float(weights().max()) != found.records[-1].scores["peak"]
        assert found.cloud._federation.seed == SEED
