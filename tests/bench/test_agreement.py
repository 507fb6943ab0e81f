"""benchmarks/agreement.py: the last line and the file say how far a step is from TensorFlow's."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment

SCRIPT = ROOT / "benchmarks" / "agreement.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)


def test_it_says_how_far_a_model_is_from_tensorflow(tmp_path: Path) -> None:
    ended = benchmark("--models", "tabular", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    figures = dict(pair.split("=") for pair in ended.stdout.splitlines()[-1].removeprefix("result ").split())
    found = json.loads((tmp_path / "out.json").read_text())["models"]["tabular"]
    assert len(found) == 50
    assert 0 < float(figures["worst"]) == pytest.approx(statistics.median(found), rel=0.01)
    assert float(figures["worst"]) < 1e-4
    assert "bar: a median of at most 1e-04: met" in ended.stdout


def test_an_unknown_model_is_one_line() -> None:
    ended = benchmark("--models", "none")
    assert ended.returncode == 2
    assert "no model none in the zoo; known: digits" in ended.stderr
