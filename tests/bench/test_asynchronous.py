"""benchmarks/asynchronous.py: the scene's delays, when a goal is reached, and a last line that says what the file says."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from asynchronous import DEVICES, WAY, Curve, rows, taken
from processes import ROOT, environment

SCRIPT = ROOT / "benchmarks" / "asynchronous.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=180, check=False)


def test_the_last_line_and_the_file_say_the_same(tmp_path: Path) -> None:
    ended = benchmark("--rounds", "1", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    shown = dict(pair.split("=") for pair in ended.stdout.splitlines()[-1].removeprefix("result ").split())
    document = json.loads((tmp_path / "out.json").read_text())
    assert list(shown) == list(document["result"])
    assert len(document["sync"]["scores"]) == 1
    assert len(document["async"]["scores"]) == 2 * DEVICES // 4
    assert float(shown["sync_minutes"]) == pytest.approx(document["sync"]["minutes"][0], rel=0.01)
    assert 6.6 < document["sync"]["minutes"][0] < 7.2  # 405 s, give or take, and what the protocol takes
    assert document["async"]["minutes"][0] < 2.1  # the fourth of those that take 105 s


def test_what_cannot_be_had_is_one_line() -> None:
    ended = benchmark("--rounds", "1", "--data", "unheard-of")
    assert ended.returncode == 2
    assert "unheard-of" in ended.stderr.splitlines()[-1]


def test_a_third_of_the_devices_each_takes_its_seconds() -> None:
    for device, mean in (("d0", 100), ("d4", 200), ("d11", 400)):
        drawn = [taken(device, number, 3) - WAY for number in range(400)]
        assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.002)
        assert statistics.stdev(drawn) == pytest.approx(mean * 0.01, rel=0.15)


def test_when_a_goal_is_reached() -> None:
    curve = Curve([5.0, 15.0, 25.0, 65.0], [0.2, 0.6, 0.4, 0.8])
    assert curve.reached(0.6, 1) == 15.0
    assert curve.reached(0.6, 2) == 65.0
    assert curve.reached(0.9, 1) is None
    assert rows(curve, curve)[1] == ["asynchronous", "0.200", "0.600", "0.400", "0.400", "0.400", "0.400", "0.800"]
