"""benchmarks/aggregate.py: what it adds up, what its figures count, when a bar is missed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import adding
import aggregate
import numpy as np
import pytest
from processes import ROOT, environment

SCRIPT = ROOT / "benchmarks" / "aggregate.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)


def test_speed_and_memory_are_in_the_last_line_and_in_the_file(tmp_path: Path) -> None:
    ended = benchmark("--only", "100k,flat", "--updates", "40", "--no-flower", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    name, *pairs = ended.stdout.splitlines()[-1].split()
    figures, document = dict(pair.split("=") for pair in pairs), json.loads((tmp_path / "out.json").read_text())
    assert name == "result" and figures.pop("missed") == "none" and document["missed"] == []
    assert set(figures) == {"whole_100k", "sum_100k", "limit_100k", "mib_100k", "flat_mib_10", "flat_grew_40"}
    assert all(float(value) == pytest.approx(document[key], rel=0.01, abs=0.01) for key, value in figures.items())
    assert 10 < document["whole_100k"] < document["limit_100k"]
    assert document["flat_grew_40"] < 8 < document["mib_100k"] < document["flat_mib_10"]  # 40 would be 153 MiB


def test_what_is_timed_is_the_mean_of_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adding, "LAPS", 1)
    monkeypatch.setattr(adding, "LIMIT", 1000)
    held = [np.frombuffer(each, np.float32) for each in adding.updates(3, 5)]
    units = [sum(Fraction(round(float(x[k]) * 2**30)) * (10 + i) for i, x in enumerate(held)) for k in range(3)]
    wanted = np.array([float(total / (2**30 * (10 + 11 + 12 + 13 + 14))) for total in units])
    found = adding.timed(3, 5)
    assert found["digest"] == hashlib.sha256(wanted.tobytes()).hexdigest()
    assert all(found[side] > 0 for side in ("sum", "whole", "limit"))


def test_more_updates_are_held_than_fit_into_a_cache_and_no_two_are_alike() -> None:
    assert len(set(adding.updates(1000, 50))) == 50
    assert 4 * 1_000_000 * len(adding.updates(1_000_000, 100)) > adding.COLD
    assert len(adding.updates(10_000_000, 100)) == 4


def test_a_bar_is_missed_below_five_times_and_where_memory_grows() -> None:
    assert aggregate.missed({"times_flower_1m": 5.0, "flat_grew_10000": 32.0, "times_flower_100k": 0.1}) == []
    assert aggregate.missed({"times_flower_1m": 4.99}) == ["times_flower"]
    assert aggregate.missed({"flat_grew_1000": 32.1}) == ["flat"]
    assert aggregate.missed({}) == []


def test_what_was_not_measured_is_left_blank() -> None:
    assert aggregate.rows({"whole_1m": 1234.5, "sum_1m": 2.345, "limit_1m": 10.0, "mib_1m": 65.7})[1:] == [
        ["1m", "1,234", "2.35", "", "10", "", "66", ""]
    ]


def test_an_unknown_part_is_the_users_mistake() -> None:
    ended = benchmark("--only", "1m,2m")
    assert ended.returncode == 2
    assert "unknown part '2m'; known: 100k, 1m, 10m, flat" in ended.stderr
