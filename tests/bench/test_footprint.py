"""benchmarks/footprint.py: what its figures count, what its last line says, and that nothing it started is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import flower
import footprint
import outcome
import pytest
import watch
from processes import ROOT, alive, environment, until

SCRIPT = ROOT / "benchmarks" / "footprint.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("footprint") / "out.json"
    ended = benchmark("--only", "mlp,idle", "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, json.loads(file.read_text())


def test_a_device_takes_about_what_its_bars_say(measured: tuple[str, dict[str, Any]]) -> None:
    found = measured[1]["mib"]
    for part in ("mlp", "idle"):
        assert 0.5 < found[part] / footprint.BARS[part] < 1.1
    assert measured[1]["missed"] == [part for part in ("mlp", "idle") if found[part] > footprint.BARS[part]]


def test_the_last_line_and_the_file_say_the_same(measured: tuple[str, dict[str, Any]]) -> None:
    shown, document = measured
    figures = dict(pair.split("=") for pair in shown.splitlines()[-1].removeprefix("result ").split())
    assert set(figures) == {"mlp", "idle", "missed", "runtime"}
    assert float(figures["mlp"]) == pytest.approx(document["mib"]["mlp"], rel=0.01)
    assert figures["missed"] == (",".join(document["missed"]) or "none")
    assert "VmHWM" in str(document["method"])


def test_an_unknown_part_is_one_line() -> None:
    ended = benchmark("--only", "mlp,dish")
    assert ended.returncode == 2
    assert "nothing to measure is called dish; known: cnn, digits" in ended.stderr


def test_a_bar_is_shown_where_there_is_one() -> None:
    assert footprint.rows({"idle": 25.04, "mlp": 48.0, "disk": 163.0})[1:] == [
        ["device, its agent waits for a task", "25.0", "<= 25", "missed"],
        ["device, trains the zoo's tabular (3,300)", "48.0", "<= 48", "met"],
        ["device, environment on disk", "163.0", "", ""],
    ]


def test_the_last_line_rounds_to_three_places(capsys: pytest.CaptureFixture[str]) -> None:
    outcome.result({"a": 60.68, "b": 1707.75, "c": 0.4549, "name": "two words", "count": 3})
    assert capsys.readouterr().out == "result a=60.7 b=1708 c=0.455 name=two-words count=3\n"


def test_a_process_is_ended_with_all_below_it(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    code = f"import signal, subprocess; signal.signal(15, signal.SIG_IGN); subprocess.run({sleeper!r})"
    with watch.started([sys.executable, "-c", code], tmp_path / "log", patience=0.5) as process:
        assert until(lambda: len(watch.descendants(process.pid)) == 1)
        family = [process.pid, *watch.descendants(process.pid)]
        assert all(alive(pid) for pid in family)
    assert until(lambda: not any(alive(pid) for pid in family))


def test_memory_of_the_parent_is_not_the_childs(tmp_path: Path) -> None:
    ballast = bytearray(b"1" * (150 * 2**20))
    code = "import signal; signal.pause()"
    with watch.started([sys.executable, "-c", code], tmp_path / "log") as process:
        assert until(lambda: watch.command(process.pid).endswith("pause() ") and watch.resident_mib(process.pid) > 4)
        assert 4 < watch.peak_mib(process.pid) < 50 < len(ballast) / 2**20


def test_the_sum_of_a_family_is_taken_at_one_time(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"
    large = "x = b'1' * (80 * 2**20); import signal; signal.pause()"
    with watch.started([sys.executable, "-c", code.format(large)], tmp_path / "log") as process:
        with flower.sampled(process.pid) as found:
            assert until(lambda: found["now"] > 85)  # the child's alone, and it stays
        assert found["clientapp"] < found["peak"] < found["clientapp"] + 40
        assert found["now"] <= found["peak"]


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(TimeoutError, match=r"the moon: not within 0\.1 s"):
        watch.until(lambda: False, "the moon", 0.1)
