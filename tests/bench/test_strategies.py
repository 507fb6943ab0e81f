"""benchmarks/strategies.py: a curve for each strategy, and a last line that says what the file says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment
from strategies import Curve, Tried, simulation

from fedfleet.sim.simulate import check

SCRIPT = ROOT / "benchmarks" / "strategies.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=180, check=False)


def test_the_last_line_and_the_file_say_the_same(tmp_path: Path) -> None:
    ended = benchmark("--rounds", "1", "--strategies", "fedavg,scaffold", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    shown = dict(pair.split("=") for pair in ended.stdout.splitlines()[-1].removeprefix("result ").split())
    assert list(shown) == ["digits_fedavg", "digits_scaffold", "rounds", "seed"]
    document = json.loads((tmp_path / "out.json").read_text())
    (digits,) = document["data"]
    assert [(each["strategy"], len(each["scores"])) for each in digits["curves"]] == [("fedavg", 1), ("scaffold", 1)]
    assert digits["curves"][0]["scores"] != digits["curves"][1]["scores"]
    for each in digits["curves"]:
        assert float(shown[f"digits_{each['strategy']}"]) == pytest.approx(each["scores"][-1], rel=0.01)


def test_a_strategy_that_does_not_fit_is_one_line() -> None:
    ended = benchmark("--strategies", "fedavg,median+scaffold")
    assert ended.returncode == 2
    assert "scaffold combines updates in its own way; leave out median+" in ended.stderr.splitlines()[-1]


def test_all_strategies_by_default_fit_both_fleets() -> None:
    for data in ("digits", "turbofan:DIR"):
        for name in ("fedavg", "fedprox", "fedadam:0.01", "scaffold"):
            check(simulation(data, name, 3, 0))


def test_a_model_of_ones_own_is_trained_instead(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build():\n    return 3\n")
    ended = benchmark("--rounds", "1", "--strategies", "fedavg", "--model", f"{tmp_path}/mine.py:build")
    assert ended.returncode == 2
    assert "returned int; return a keras.Model" in ended.stderr.splitlines()[-1]


def test_last_and_reached() -> None:
    rising = Curve("fedavg", [0.1, 0.5, 0.4, 0.6, 0.8, 0.9, 0.7, 0.9, 0.8, 0.9], 1.0)
    assert rising.last == pytest.approx(0.85)
    assert rising.reached(rising.last, falling=False) == 6
    assert rising.reached(0.95, falling=False) is None
    assert Curve("x", [30.0, 20.0, 25.0], 1.0).reached(20.0, falling=True) == 2
    rows = Tried("digits", "accuracy", [rising, Curve("scaffold", [0.2] * 10, 2.0)]).rows()
    assert rows[0] == [
        "digits, accuracy", "round 2", "round 4", "round 6", "round 8", "round 10", "last", "reached", "seconds",
    ]  # fmt: skip
    assert rows[1][1:] == ["0.5", "0.6", "0.9", "0.9", "0.9", "0.85", "6", "1"]
    assert rows[2][-2] == "-"
