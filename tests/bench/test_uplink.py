"""benchmarks/uplink.py: bytes are counted as they are on the wire, and the last line says what the bar says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import uplink
from processes import ROOT, environment

from fedfleet.wire.messages import Plan

SCRIPT = ROOT / "benchmarks" / "uplink.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=180, check=False)


def test_the_last_line_and_the_file_say_the_same(tmp_path: Path) -> None:
    ended = benchmark(
        "--rounds", "6", "--codecs", "float32,int4", "--downlink", "int8", "--json", str(tmp_path / "out.json")
    )
    assert ended.returncode == 0, ended.stderr
    shown = dict(pair.split("=") for pair in ended.stdout.splitlines()[-1].removeprefix("result ").split())
    assert list(shown) == ["codec", "digits_fewer", "digits_lost", "rounds"]
    document = json.loads((tmp_path / "out.json").read_text())
    (digits,) = document["data"]
    plain, int4 = digits["found"]
    assert (plain["codec"], int4["codec"], plain["lost"]) == ("float32", "int4", 0.0)
    sent = 8 * 4 * digits["parameters"]
    assert sent < plain["up"] < sent + 8 * 400  # what travels around an update is little
    assert 7 < plain["up"] / int4["up"] < 8
    assert plain["down"] == sent
    assert int4["down"] == pytest.approx(sent / 6 + sent * 5 / 6 / 4, rel=0.01)  # whole in the first round alone
    assert float(shown["digits_fewer"]) == pytest.approx(plain["up"] / int4["up"], rel=0.01)
    assert int4["lost"] == pytest.approx(100 * (plain["score"] - int4["score"]))
    assert abs(int4["lost"]) < 20
    assert plain["score"] > 0.2  # it learns
    assert len(plain["scores"]) == 1  # of the last fifth
    assert "bar: 16 times fewer bytes and at most 0.5 lost, int4: missed" in ended.stdout


def test_an_unknown_codec_is_one_line() -> None:
    ended = benchmark("--codecs", "gzip")
    assert ended.returncode == 2
    assert "unknown codec 'gzip'; known: float32" in ended.stderr


def tried(name: str, metric: str, *scores: float) -> uplink.Tried:
    found = [
        uplink.Found("float32", 3200.0, 3200.0, [scores[0]], 1.0),
        uplink.Found("int4", 100.0, 90.0, list(scores[1:]), 2.0),
    ]
    return uplink.Tried(name, metric, 800, [5, 7], Plan(), found)


@pytest.mark.parametrize(
    ("metric", "scores", "lost", "met"),
    [
        ("accuracy", (0.95, 0.94, 0.952), 0.4, True),
        ("accuracy", (0.95, 0.94), 1.0, False),
        ("rmse", (20.0, 20.4), 0.4, True),
        ("rmse", (20.0, 21.0, 22.0), 1.5, False),
        ("rmse", (20.0, 18.0), -2.0, True),
    ],
)
def test_lost_is_what_is_worse(metric: str, scores: tuple[float, ...], lost: float, met: bool) -> None:
    found = tried("some", metric, *scores)
    figures = uplink.figures([found], "int4")
    assert figures == {"codec": "int4", "some_fewer": 32.0, "some_lost": pytest.approx(lost)}
    assert uplink.meets(figures) is met
    assert not uplink.meets({**figures, "other_fewer": 15.9})
    assert uplink.rows(found)[2][2:6] == ["32.0", "0.1", f"{found.found[1].score:.4f}", f"{lost:+.2f}"]
