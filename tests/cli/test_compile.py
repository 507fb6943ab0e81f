"""`fedfleet compile` as its user sees it: the table, and the same as JSON with nothing around it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import environment

from fedfleet.models.compiled import load

MODEL = """
import tensorflow as tf
L = tf.keras.layers
def build():
    print("a word of the user's own")
    return tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(4, trainable=False), L.Dense(3)])
"""


def compiled(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "m.py").write_text(MODEL)
    command = [sys.executable, "-m", "fedfleet.cli.main", "compile", "m.py:build", "--out", "built", *more]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), cwd=folder, timeout=120, check=True
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    folder = tmp_path_factory.mktemp("json")
    ended = compiled(folder, "--batch", "8", "--json")
    return json.loads(ended.stdout), folder / "built", ended.stderr


def test_json_says_what_was_written(report: tuple[dict[str, Any], Path, str]) -> None:
    facts, folder, aside = report
    written = load(folder)
    assert facts["parameters"] == {"shared": 15, "local": 0, "frozen": 28}
    assert facts["program"]["sha256"] == written.digest
    assert facts["program"]["bytes"] == len(written.program)
    assert facts["program"]["batch"] == written.batch == 8
    assert "fedfleet compile: m.py:build" in aside


def test_json_says_what_it_costs(report: tuple[dict[str, Any], Path, str]) -> None:
    facts = report[0]
    assert 20 < facts["training_peak_mib"] < 100
    assert 0 < facts["step_ms"] < 100
    assert facts["difference"] < 1e-4
    assert {"op", "count", "ms", "costliest"} == set(facts["ops"][0])
    assert any(cost["op"] == "BATCH_MATMUL" and cost["ms"] > 0 for cost in facts["ops"])


def test_the_table_is_for_people(tmp_path: Path) -> None:
    shown = compiled(tmp_path).stdout
    for text in ("15 shared, 0 local, 28 frozen", "MiB at its peak", "ms a step of 16", "written to", " ms ("):
        assert text in shown
    assert "{" not in shown
