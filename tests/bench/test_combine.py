"""benchmarks/combine.py: the sides take turns over the same updates, what they come to is compared, no process is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import combine
import pytest
from processes import ROOT, alive, environment, until

SCRIPT = ROOT / "benchmarks" / "combine.py"
LAPS: dict[int, dict[str, list[float]]] = {
    100: {"numpy": [1.0, 2.0, 4.0], "r4": [0.5, 4.0, 1.0], "gpu": [0.1, 0.1, 0.1], "tff": [10.0, 40.0, 20.0]},
    1000: {"numpy": [10.0], "r4": [20.0]},
}
FOUND: dict[str, Any] = {"laps": LAPS, "gpus": ["one"], "tff": "0.87.0", "device": {"folding": 1.5, "copying": 2.0}}


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    shell = environment() | {"CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run(command, capture_output=True, text=True, env=shell, timeout=280, check=False)


def test_the_last_line_and_the_file_have_every_side(tmp_path: Path) -> None:
    asked = ("--parameters", "2000", "--updates", "5,9", "--laps", "1", "--tff", str(tmp_path / "none"))
    ended = benchmark(*asked, "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    name, *pairs = ended.stdout.splitlines()[-1].split()
    said, document = dict(pair.split("=") for pair in pairs), json.loads((tmp_path / "out.json").read_text())
    ours = ["r1", "r2", "r4"]
    wanted = {f"{one}_{n}" for n in (5, 9) for one in ("numpy", *ours, *(f"{side}_over_numpy" for side in ours))}
    assert (name, set(said)) == ("result", wanted | {"gpus", "tff", "bits"})
    assert (said["gpus"], said["tff"], said["bits"]) == ("0", "none", "alike")
    assert f"TFF left out: there is no {tmp_path / 'none'}" in ended.stdout
    assert "GPUs: none was there; nothing was measured on one" in ended.stdout
    assert {n: sorted(sides) for n, sides in document["laps"].items()} == {n: ["numpy", *ours] for n in ("5", "9")}
    assert {"method", "machine", "versions", "parameters"} <= set(document)


def test_ratios_are_those_of_the_same_turn_and_then_the_median() -> None:
    said = combine.figures(FOUND)
    assert (said["numpy_100"], said["r4_100"]) == (50.0, 100.0)
    assert (said["r4_over_numpy_100"], said["r4_over_tff_100"]) == (2.0, 20.0)
    assert (said["gpu_over_numpy_100"], said["gpu_over_tff_100"]) == (20.0, 200.0)
    assert (said["r4_over_numpy_1000"], said["bandwidth"], said["gpus"]) == (0.5, 0.75, 1)
    assert not {key for key in said if key.endswith("tff_1000")}
    table = combine.rows(FOUND)
    assert table[0] == ["side", "updates/s, 100", "over NumPy, 100", "updates/s, 1000", "over NumPy, 1000"]
    assert table[1:3] == [["numpy", "50", "", "100", ""], ["r4", "100", "2", "50", "0.5"]]
    assert table[4] == ["tff", "5", "0.1", "", ""]


ECHO = (
    "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); sys.stdin.read()"
)


def test_what_a_side_has_started_ends_with_it() -> None:
    with combine.side(sys.executable, "-c", ECHO) as found:
        worker = int(str(found.hello))
        assert alive(worker)
    assert until(lambda: not alive(worker))


def test_another_digest_is_no_result() -> None:
    code = "import sys; print('{}', flush=True); [print(sys.argv[1], flush=True) for _ in sys.stdin]"
    with combine.side(sys.executable, "-c", code, '{"seconds": 1, "digest": "a"}') as one:
        assert combine.turns({"one": one, "same": one}, 3, 2, theirs=True) == {"one": [1, 1], "same": [1, 1]}
        with combine.side(sys.executable, "-c", code, '{"seconds": 1, "digest": "b"}') as other:
            with pytest.raises(RuntimeError, match="2 digests of the same updates"):
                combine.turns({"one": one, "other": other}, 3, 1, theirs=True)


def test_a_side_that_ends_is_named() -> None:
    with pytest.raises(RuntimeError, match="raise SystemExit.* ended"):
        with combine.side(sys.executable, "-c", "raise SystemExit(3)"):
            raise AssertionError("it said nothing")


@pytest.mark.parametrize("wrong", [("--updates", "10,x"), ("--laps", "0"), ("--updates", "0")])
def test_what_is_no_number_is_the_users_mistake(wrong: tuple[str, str]) -> None:
    ended = benchmark(*wrong)
    assert ended.returncode == 2
    assert "updates, laps and parameters are numbers from 1" in ended.stderr


def test_a_device_is_measured_where_there_is_one() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "combining.py"), "-1", "20000"]
    with combine.side(*command, CUDA_VISIBLE_DEVICES="-1", PYTHONPATH=environment()["PYTHONPATH"]) as one:
        assert one.hello == {"gpus": []}
        found = one.ask("device 30000")
    assert 0 < found["folding"] < 1e13 and 0 < found["copying"] < 1e13
