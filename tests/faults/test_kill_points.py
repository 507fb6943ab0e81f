"""A few of the points at which `make test-kill` kills a device; that takes all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import KINDS
from faults.kill_points import table

from fedfleet.models.compiled import Compiled


@pytest.mark.skipif("mosquitto" not in KINDS, reason="mosquitto is not installed")
def test_a_killed_device_contributes_once_and_to_the_same_bits(
    small: Compiled, tmp_path: Path, rooms: Callable[..., None]
) -> None:
    rooms(Path(__file__).parents[1])
    whole, lives = table(small, tmp_path, [12, 25, 40, 60])
    assert len(whole.points) >= 40
    assert whole.rounds == [("closed", 1, 20)] * 2
    for at, found in lives.items():
        assert len(found.points) == at, "it was not killed where it should be"
        assert found.result == whole.result
    kinds = {point.partition(" ")[0] + " " + point.split()[1] for point in whole.points}
    for kind in (
        "before fsync",
        "after replace",
        "before train",
        "after publish",
        "delivered task",
        "delivered receipt",
    ):
        assert kind in kinds
