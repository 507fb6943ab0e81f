"""benchmarks/round.py: what is a round's overhead, what is compared, and that real agents go through it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import round as rounds
import tensorflow_client
from processes import ROOT, environment

SCRIPT = ROOT / "benchmarks" / "round.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)


def test_real_agents_have_their_rounds_timed_and_their_memory_counted(tmp_path: Path) -> None:
    ended = benchmark("--devices", "2", "--rounds", "4", "--no-flower", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    name, *pairs = ended.stdout.splitlines()[-1].split()
    figures, document = dict(pair.split("=") for pair in pairs), json.loads((tmp_path / "out.json").read_text())
    assert name == "result" and figures.pop("missed") == "none"
    assert all(float(value) == pytest.approx(document[key], rel=0.01) for key, value in figures.items())
    assert document["ours_devices"] == 2
    assert 0 < document["ours_overhead"] <= document["ours_overhead_median"] < document["ours_round"] + 1e-9
    assert 0 < document["ours_training"] < document["ours_round"]
    assert 40 < document["ours_mib"] < 150  # the agent's 25 and the CNN's 64, about


def test_overhead_is_a_round_without_its_slowest_training_and_the_first_does_not_count() -> None:
    noted = [
        {"seconds": 90.0, "training": 1.0, "devices": 1},
        {"seconds": 10.0, "training": 4.0, "devices": 8},
        {"seconds": 9.0, "training": 1.0, "devices": 7},
        {"seconds": 12.0, "training": 5.0, "devices": 8},
    ]
    assert rounds.figures("ours", noted, [70.0, 88.0, 900.0]) == {
        "ours_round": 10.0,
        "ours_training": 4.0,
        "ours_overhead_median": 7.0,
        "ours_overhead": 6.0,
        "ours_mib": 88.0,
        "ours_devices": 7,
    }


def test_the_bars_are_of_the_shortest_overhead_and_of_memory() -> None:
    found = {"ours_overhead": 0.25, "ours_mib": 80.0}
    assert rounds.times(found) == {}
    both = found | {"flower_overhead": 15.0, "flower_mib": 720.0}
    assert rounds.times(both) == {"times_less_overhead": 60.0, "times_less_memory": 9.0}


def test_no_two_devices_have_the_same_examples() -> None:
    (x, y), (other, _) = (tensorflow_client.examples(device) for device in (0, 1))
    assert x.shape == (64, 28, 28, 1) and y.shape == (64,)
    assert (x != other).any() and (x == tensorflow_client.examples(0)[0]).all()


def test_one_round_alone_would_leave_nothing_to_count() -> None:
    ended = benchmark("--rounds", "1")
    assert ended.returncode == 2
    assert "at least 1 device and 2 rounds" in ended.stderr
