"""Fifty of the seeds that `make test-seeds` plays a thousand of, and what they would find."""

from __future__ import annotations

import subprocess
import sys

import pytest
from faults.seeds import Scene, verdict
from processes import ROOT, environment

from fedfleet.cloud import rounds
from fedfleet.cloud.rounds import Round
from fedfleet.wire.messages import Receipt


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_seeds_hold(first: int) -> None:
    found = [verdict(seed) for seed in range(first, first + 10)]
    assert [(seed, said) for seed, said, good in found if not good] == []


def test_a_seed_replays_from_its_number() -> None:
    assert verdict(7) == verdict(7)
    assert verdict(7)[1] != verdict(8)[1]


def test_an_update_that_counts_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = Round._settled

    def forgetful(self: Round, device: str, number: int) -> Receipt | None:
        receipt = settled(self, device, number)
        return receipt if receipt is None or receipt.outcome == "refused" else None

    monkeypatch.setattr(Round, "_settled", forgetful)
    assert not all(good for _, _, good in map(verdict, range(8)))


def test_an_update_of_another_round_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = Round._settled

    def lenient(self: Round, device: str, number: int) -> Receipt | None:
        return settled(self, device, self.task.round)

    monkeypatch.setattr(Round, "_settled", lenient)
    assert not all(good for _, _, good in map(verdict, range(8)))


def test_a_round_that_outlasts_its_deadline_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Round.verdict
    monkeypatch.setattr(Round, "verdict", lambda self, elapsed: ended(self, elapsed / 1.5))
    assert any("its deadline is" in said for _, said, good in map(verdict, range(4)) if not good)


def test_an_old_update_that_counts_in_full_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "discounted", lambda delta, behind: delta)
    late = [seed for seed in range(60) if Scene.of(seed).rounds.staleness]
    assert len(late) > 5
    assert not all(good for _, _, good in map(verdict, late[:8]))


def test_a_scene_has_somebody_to_learn_from() -> None:
    scenes = [Scene.of(seed) for seed in range(2000)]
    for scene in scenes:
        assert any(scene.faults.attack(scene.seed, f"d{i}") != "nan" for i in range(scene.devices))
    assert any(scene.faults.nan == 0 for scene in scenes), "none had to be mended"


def test_the_runner_says_which_seeds_it_played() -> None:
    command = [sys.executable, "-m", "faults.seeds", "--seeds", "2", "--from", "5"]
    lines = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT / "tests", env=environment()
    ).stdout.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["5:", "6:"]
    assert lines[-1] == "2 of 2 seeds hold"
