"""benchmarks/transport.py: what its last line says, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import KINDS
from processes import ROOT, environment

SCRIPT = ROOT / "benchmarks" / "transport.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=180, check=False)


@pytest.mark.skipif("mosquitto" not in KINDS, reason="mosquitto is not installed")
def test_an_aggregator_is_a_part_of_what_the_broker_carries(tmp_path: Path) -> None:
    ended = benchmark("--only", "throughput", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    name, *pairs = ended.stdout.splitlines()[-1].split()
    figures = dict(pair.split("=") for pair in pairs)
    assert name == "result"
    assert set(figures) == {
        f"updates_{size}_{what}" for size in ("100kb", "4mb") for what in ("a_second", "share_of_broker")
    }
    assert all(0.005 < float(figures[key]) < 1.5 for key in figures if key.endswith("broker"))
    assert "paho-mqtt" in json.loads((tmp_path / "out.json").read_text())["versions"]


def test_an_unknown_part_is_the_users_mistake() -> None:
    ended = benchmark("--only", "blobs")
    assert ended.returncode == 2
    assert "unknown part 'blobs'; known: blob, throughput, idle" in ended.stderr
