"""benchmarks/virtual.py: what a round of simulated devices takes, and which rounds count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import virtual
from processes import ROOT, environment

from fedfleet.sim.virtual.faults import Faults

SCRIPT = ROOT / "benchmarks" / "virtual.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)


def test_a_round_of_virtual_devices_is_timed(tmp_path: Path) -> None:
    ended = benchmark("--devices", "20", "--rounds", "3", "--no-flower", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    name, *pairs = ended.stdout.splitlines()[-1].split()
    figures, document = dict(pair.split("=") for pair in pairs), json.loads((tmp_path / "out.json").read_text())
    assert name == "result" and figures.pop("missed") == "none"
    assert set(figures) == {"ours_round", "ours_round_median", "ours_mib"}
    assert all(float(value) == pytest.approx(document[key], rel=0.01) for key, value in figures.items())
    assert 0 < document["ours_round"] <= document["ours_round_median"]


def test_every_round_is_timed_from_the_end_of_the_last_one() -> None:
    found = virtual.ours(3, 4)
    assert len(found) == 4 and min(found) > 0


def test_the_shortest_round_but_the_first_counts() -> None:
    found = virtual.figures("ours", [0.5, 2.0, 3.0, 10.0]) | virtual.figures("flower", [1.0, 9.0, 8.0])
    assert found == {"ours_round": 2.0, "ours_round_median": 3.0, "flower_round": 8.0, "flower_round_median": 8.5}
    assert virtual.times(found) == {"times_less": 4.0}
    assert virtual.times({"ours_round": 2.0}) == {}


def test_devices_that_do_not_report_end_the_benchmark_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "Faults", lambda: Faults(nan=1.0))
    with pytest.raises(RuntimeError, match="of 3 devices there reported"):
        virtual.ours(3, 2)


def test_one_round_alone_would_leave_nothing_to_count() -> None:
    ended = benchmark("--rounds", "1")
    assert ended.returncode == 2
    assert "at least 1 device and 2 rounds" in ended.stderr
