"""benchmarks/step_time.py: both sides of the comparison take the same steps, and the last line says what came of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import step_time
import tensorflow as tf
from processes import ROOT, environment
from steps import BATCH, Timed, device_step, tensorflow_step

from fedfleet.models import audit, compiler
from fedfleet.models.zoo import ZOO

SCRIPT = ROOT / "benchmarks" / "step_time.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)


@pytest.mark.parametrize("name", ["tabular", "turbofan"])
def test_both_sides_take_the_same_steps(name: str) -> None:
    model, loss = ZOO[name].build(), ZOO[name].loss
    compiled = compiler.compile(model, loss, batch=BATCH)
    batch = audit.examples(compiled) | {"weight": np.ones(BATCH, np.float32)}
    theirs, mine = tensorflow_step(model, loss, batch), device_step(compiled, batch)
    losses = np.array([[theirs(), mine()] for _ in range(12)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-3)
    assert losses[-1, 0] < losses[0, 0]


def test_the_last_line_and_the_file_say_the_same(tmp_path: Path) -> None:
    ended = benchmark("--models", "tabular", "--laps", "1", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    last = ended.stdout.splitlines()[-1]
    figures = dict(pair.split("=") for pair in last.removeprefix("result ").split())
    assert set(figures) == {"geomean", "worst", "worst_model", "tf", "runtime"}
    assert figures["worst_model"] == "tabular"
    assert figures["tf"] == tf.__version__
    assert re.fullmatch(r"(ai-edge-litert|tflite-runtime)-[\d.]+", figures["runtime"])
    document = json.loads((tmp_path / "out.json").read_text())
    (measured,) = document["models"]
    assert measured["ratios"] == [measured["device"][0] / measured["tensorflow"][0]]
    assert float(figures["geomean"]) == pytest.approx(measured["ratios"][0], rel=0.01)
    assert "oneDNN" in document["method"]
    assert "bar: geomean at most 1.0, no model over 1.5" in ended.stdout


def test_an_unknown_model_is_one_line() -> None:
    ended = benchmark("--models", "none")
    assert ended.returncode == 2
    assert "no model none in the zoo; known: digits" in ended.stderr


def test_a_ratio_is_taken_within_its_lap() -> None:
    slow = Timed("slow", 10, [1.0, 2.0, 10.0], [2.0, 4.0, 20.0])
    fast = Timed("fast", 10, [1.0, 1.0, 1.0], [0.5, 0.5, 9.0])
    found = step_time.figures([slow, fast])
    assert (found["geomean"], found["worst"], found["worst_model"]) == (pytest.approx(1.0), 2.0, "slow")
    assert step_time.rows([fast])[1] == ["fast", "10", "1.000", "0.500", "0.50", "(0.50-9.00)"]
