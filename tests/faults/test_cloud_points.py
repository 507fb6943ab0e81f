"""A few of the points at which `make test-kill` kills an aggregator; that takes about 60, in three federations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from brokers import needs_mosquitto
from faults.cloud_points import CASES, DEVICES, ROUNDS, schedule, table

from fedfleet.models.compiled import Compiled

KINDS = (
    "before fsync blobs",
    "torn blobs",
    "torn updates",
    "after replace blobs",
    "before unlink blobs",
    "before sql INSERT INTO rounds",
    "torn sql INSERT INTO rounds",
    "torn sql COMMIT",
    "before publish task",
    "after publish receipt receipt counted",
    "delivered update part",
)


@needs_mosquitto
def test_a_killed_aggregator_counts_all_once_and_comes_to_the_same_bits(
    small: Compiled, tmp_path: Path, rooms: Callable[..., None]
) -> None:
    rooms(Path(__file__).parents[1])
    case = CASES["devices keep what a codec lost, the way down is a patch"]
    whole, [(kills, found)] = table(small, case, tmp_path / "killed", range(3, 4), rounds=4)
    assert len(found.kills) >= len(kills) - 1, "it was not killed where it should be"
    assert found.result == whole.result
    counted, rounds = whole.result["counted"], whole.result["rounds"]
    assert isinstance(counted, list) and isinstance(rounds, list)
    assert [row[:3] for row in counted] == [(n, f"d{i}", 10 * i + 10) for n in range(1, 5) for i in range(DEVICES)]
    assert [row[:2] for row in rounds] == [(n, "closed") for n in range(1, 5)]
    assert whole.result["half-written"] == whole.result["retained"] == []
    labels = {point.partition(": ")[2] for point in whole.points}
    for kind in KINDS:
        assert any(label.startswith(kind) for label in labels), kind


def test_kills_are_spread_over_all_points_of_a_round() -> None:
    sections = {"start": 66, "end": 33} | {f"round {number}": 9 * ROUNDS for number in range(1, ROUNDS + 1)}
    kills = [schedule(sections, ROUNDS, seed) for seed in range(10)]
    for one in kills:
        assert one.keys() >= sections.keys()
        assert all(1 <= at <= sections.get(section, sections["start"]) for section, at in one.items())
        places = sorted((at - 1) // 9 for section, at in one.items() if section.startswith("round"))
        assert places == list(range(ROUNDS))
    assert len({at for one in kills for section, at in one.items() if section.startswith("round")}) > 60
    assert kills[0] == schedule(sections, ROUNDS, 0) != kills[1]
