"""Whole federations under rules that are no sums: ends and new starts change nothing, and none closes with too few."""

from __future__ import annotations

import numpy as np
import pytest
from federations import DEADLINE, TOPICS, never, weights, world

from fedfleet.cloud.settings import Rounds
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.messages import Task, decode


@pytest.mark.parametrize(
    "name",
    [
        "fedadam",
        "median",
        "krum:1+fedyogi",
        "bulyan:1",
        "clip:0.05+fedadagrad",
        "filter:1",
        "scaffold:0.5",
        "fednova",
        "qfedavg:2",
    ],
)
def test_strategies_that_are_no_plain_sums_go_on_to_the_same_bits(name: str) -> None:
    rounds = Rounds(total=2, devices=7, deadline=DEADLINE)
    with world(strategy=name, devices=7, rounds=rounds) as whole:
        wanted = whole.play()
    with world(strategy=name, devices=7, rounds=rounds) as found:
        for number in (1, 2):
            found.until(number)
            for actor in (5, 0, 3, 0, 5, 0, 3, 0, 5, 0):  # some have reported, and not in the order of their names
                found.act(actor)
            found.cloud_dies()
            found.cloud_starts()
        assert found.play((7, 6, 0, 5, 4, 0, 3, 2, 1) * 4) == wanted


def test_no_round_closes_with_fewer_updates_than_the_rule_takes() -> None:
    with world(strategy="krum:1", rounds=Rounds(total=1, devices=3, quorum=2, deadline=DEADLINE)) as found:
        for step in range(40):
            found.act(step % 4)
        assert found.cloud.waiting() == "3 reported, quorum 5; waiting for more devices"
        for device in ("d3", "d4"):
            found.devices += 1
            found.device_starts(device)
        found.play()
        assert [(record.state, record.reported) for record in found.records] == [("closed", 5)]


def test_krum_chooses_one_of_the_updates_as_it_is() -> None:
    with world(strategy="krum:1", devices=5, rounds=Rounds(total=1, devices=5, deadline=DEADLINE)) as found:
        found.play()
        task = decode(Task, found.hub.retained[TOPICS.task])
        path = found.folder / "weights"
        path.write_bytes(weights().tobytes())
        made = [SeededTrainer(device).train(task, path, path, never) for device in found.names]
        moved = [weights() + np.frombuffer(update.delta, "<f4") for update in made if update is not None]
        assert any(np.array_equal(found.cloud.weights, one) for one in moved)
