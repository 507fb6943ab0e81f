"""benchmarks/storm.py: what its figures count, what its last line says, and that nothing it started is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import storm
from brokers import needs_mosquitto
from crowd import CROWDS
from processes import ROOT, environment

from fedfleet.cloud.broker import server

SCRIPT = ROOT / "benchmarks" / "storm.py"


def benchmark(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    variables = {**environment(), **more}
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120, check=False)


@needs_mosquitto
def test_the_last_line_the_table_and_the_file_say_the_same(tmp_path: Path) -> None:
    ended = benchmark("--clients", "12", "--away", "0.2", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    last = ended.stdout.splitlines()[-1]
    figures = dict(pair.split("=") for pair in last.removeprefix("result ").split())
    assert set(figures) == {"clients", "back_s", "peak_per_s", "paho_back_s", "paho_peak_per_s", "paho"}
    document = json.loads((tmp_path / "out.json").read_text())
    ours, theirs = document["storms"]
    assert [ours["kind"], theirs["kind"]] == list(CROWDS)
    for each in (ours, theirs):
        assert len(each["back"]) == 12
        assert each["back"] == sorted(each["back"])
        assert 1 <= each["burst"] <= 12
        assert 1 <= each["peak"] <= 14  # the benchmark itself looks whether the broker is there
    assert float(figures["back_s"]) == pytest.approx(ours["back"][-1], rel=0.01)
    assert int(figures["paho_peak_per_s"]) == theirs["peak"]
    assert (
        f"bar: all back within 60 s, no second with over 50% of them: {'met' if document['bar']['met'] else 'missed'}"
        in (ended.stdout)
    )


def test_the_busiest_moment_is_found() -> None:
    assert storm.burst([]) == 0
    assert storm.burst([5.0, 0.0, 0.05, 0.09, 0.2, 5.02]) == 3
    assert storm.burst([0.1 * number for number in range(20)], width=0.55) == 6


def test_the_table_has_quantiles() -> None:
    found = storm.Storm("ours", [float(second) for second in range(11)], 4, 2)
    assert storm.rows([found])[1] == ["ours", "5.0", "9.0", "10.0", "4", "2"]


def test_what_cannot_be_measured_is_one_line() -> None:
    ended = benchmark("--clients", "0")
    assert ended.returncode == 2
    assert "--clients must be at least 1" in ended.stderr


def test_a_broker_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "SBIN", "")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", ["storm.py"])
    with pytest.raises(SystemExit):
        storm.main()
    assert "mosquitto is not installed: apt install mosquitto" in capsys.readouterr().err
