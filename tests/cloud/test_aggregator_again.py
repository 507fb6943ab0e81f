"""An aggregator that is started on the journal of an earlier one, and what has changed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import DEADLINE, UNINTERRUPTED, World, world

from fedfleet.cloud.registry import versions
from fedfleet.cloud.settings import Rounds
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Plan


class Ended(BaseException):
    """As by a signal."""


def ending(at: int) -> Callable[[Weights], dict[str, float]]:
    """Return what scores weights, and is ended the time number `at`."""
    times = 0

    def evaluate(weights: Weights) -> dict[str, float]:
        nonlocal times
        times += 1
        if times == at:
            raise Ended
        return {"loss": float(np.abs(weights).sum())}

    return evaluate


def scores(found: World) -> list[dict[str, float | None]]:
    return [version.scores for version in versions(found.folder / "cloud")]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_model_whose_score_was_cut_off_is_scored_by_the_next_start(at: int) -> None:
    with world(evaluate=ending(0)) as found:
        found.play()
        whole = scores(found)
    assert all(score["loss"] for score in whole)
    with world(evaluate=ending(at)) as found:
        with pytest.raises(Ended):
            found.play()
        assert scores(found)[-1] == {}
        found.cloud_dies()
        found.cloud_starts()
        assert scores(found) == whole[:at]
        assert found.play() == UNINTERRUPTED
        assert scores(found) == whole


@pytest.mark.parametrize(
    ("before", "after"),
    [("fedadam", "fedyogi"), ("fedavgm", "fedadagrad"), ("fedadam", "fedavg"), ("median+fedyogi:0.1", "fedadam")],
)
def test_moments_of_another_algorithm_are_refused_in_one_line(before: str, after: str) -> None:
    with world(strategy=before) as found:
        found.until(2)
        found.cloud_dies()
        files = content(found.folder / "cloud")
        found.strategy = after
        with pytest.raises(StoreError, match=rf"journal was written with strategy {before.replace('+', '.')}; go on"):
            found.cloud_starts()
        found.cloud_dies()
        assert content(found.folder / "cloud") == files
        found.strategy = before
        found.cloud_starts()
        found.play()
        assert [record.state for record in found.records] == ["closed"] * 3


@pytest.mark.parametrize(
    ("before", "after"),
    [("fedadam", "fedadam:0.1"), ("fedadam", "median+fedadam"), ("fedavg", "fedprox"), ("median", "trimmed:0.4")],
)
def test_rate_and_rule_may_change_and_so_may_an_algorithm_without_moments(before: str, after: str) -> None:
    with world(strategy=before) as found:
        found.until(2)
        found.cloud_dies()
        found.strategy = after
        found.cloud_starts()
        found.play()
        assert [record.state for record in found.records] == ["closed"] * 3
        assert [version.strategy for version in versions(found.folder / "cloud")] == [before, before, after]


def test_a_round_that_is_open_takes_the_codec_that_its_devices_were_told() -> None:
    plan = Plan(codec="int8")
    with world(plan=plan, rounds=Rounds(total=2, devices=3, quorum=3, deadline=DEADLINE)) as found:
        found.until(2)
        found.cloud_dies()
        found.plan = replace(plan, codec="float16")
        found.cloud_starts()
        found.play()
        assert [(record.round, record.state) for record in found.records] == [(1, "closed"), (2, "closed")]


def content(folder: Path) -> dict[str, bytes]:
    """All files but SQLite's memory of who reads."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }
