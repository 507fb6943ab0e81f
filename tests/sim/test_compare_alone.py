"""Each device alone: the same bits as the baseline, and who is killed half way has nothing."""

from __future__ import annotations

from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from fedfleet.models.compiled import Compiled
from fedfleet.sim.baselines import Job, train
from fedfleet.sim.compare.apart import trained
from fedfleet.sim.datasets import load
from fedfleet.sim.split import split
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    from fedfleet.sim import program as programs

    dataset = load("digits", 0)
    return programs.compiled(programs.build(dataset, "digits", "", 0), dataset, 16)


@pytest.fixture
def job(compiled: Compiled, tmp_path: Path) -> Job:
    compiled.save(tmp_path)
    plan = Plan(learning_rate=0.02, momentum=0.9)
    return Job(tmp_path / "program.tflite", compiled.digest, compiled.weights, plan, 2, 0)


@pytest.fixture(scope="module")
def parts() -> list[Examples]:
    return split("iid", load("digits", 0), 5, 0)


def test_each_has_what_the_baseline_has_and_the_killed_have_nothing(
    job: Job, parts: list[Examples], tmp_path: Path
) -> None:
    found = dict(trained(job, parts, [1, 3], tmp_path / "log"))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[1] is None
    assert found[3] is None
    for index in (0, 2, 4):
        weights = found[index]
        assert weights is not None
        np.testing.assert_array_equal(weights, train(job, [parts[index]]))
    assert not active_children()


def test_half_is_said_once_before_the_second_half(job: Job, parts: list[Examples]) -> None:
    said: list[int] = []
    train(job, parts[:1], lambda: said.append(1))
    assert said == [1]


def test_one_that_fails_is_named_and_nobody_is_left_behind(job: Job, parts: list[Examples], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"device \d ended while it trained alone"):
        list(trained(job._replace(digest="0" * 64), parts, [], tmp_path / "log"))
    assert not active_children()


def test_who_looks_away_leaves_no_process_behind(job: Job, parts: list[Examples], tmp_path: Path) -> None:
    running = trained(job, parts, [], tmp_path / "log")
    next(running)
    running.close()
    assert not active_children()
