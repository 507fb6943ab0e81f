"""benchmarks/refine.py: a curve for each way to refine and each seed, and a last line that says what the file says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment
from refine import ALONE, NONE, Fleet, Tried, figures
from strategies import Curve

from fedfleet.sim.simulate import check

SCRIPT = ROOT / "benchmarks" / "refine.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=180, check=False)


def test_the_last_line_and_the_file_say_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ended = benchmark("--rounds", "1", "--seeds", "1", "--refine", "tune:steps=5", "--json", str(out))
    assert ended.returncode == 0, ended.stderr
    shown = dict(pair.split("=") for pair in ended.stdout.splitlines()[-1].removeprefix("result ").split())
    assert list(shown) == ["digits_none", "digits_tune", "digits_alone", "rounds", "seeds", "share"]
    (digits,) = json.loads(out.read_text())["data"]
    assert {refine: len(curves) for refine, curves in digits["curves"].items()} == {"none": 1, "tune:steps=5": 1}
    plain, tuned = (curves[0]["scores"] for curves in digits["curves"].values())
    assert plain != tuned
    assert float(shown["digits_tune"]) == pytest.approx(tuned[-1], rel=0.01)
    assert float(shown["digits_alone"]) == pytest.approx(digits["alone"][0], rel=0.01)


def test_what_cannot_be_is_one_line() -> None:
    for arguments, text in (
        (["--refine", "polish"], "kind must be tune or distil"),
        (["--share", "0"], "the cloud has no data"),
    ):
        ended = benchmark(*arguments)
        assert ended.returncode == 2
        assert text in ended.stderr.splitlines()[-1]


def test_the_fleets_differ_in_what_refines_alone() -> None:
    assert Fleet("digits", 3, 0.1, split="iid").simulation(NONE, 0).split == "iid"
    for data in ("digits", "turbofan:DIR"):
        fleet = Fleet(data, 3, 0.1, passes=7)
        plain, tuned = (fleet.simulation(refine, 2) for refine in (NONE, "tune:steps=5"))
        check(plain)
        check(tuned)
        assert (plain.refine, tuned.refine, plain.cloud_share) == ("", "tune:steps=5", 0.1)
        assert (plain.plan, plain.split, plain.seed, plain.plan.epochs) == (tuned.plan, tuned.split, tuned.seed, 7)


def test_gains_are_of_the_same_seed_and_better_is_more() -> None:
    def curves(*lasts: float) -> list[Curve]:
        return [Curve("fedavg", [0.0] * 4 + [last], 1.0) for last in lasts]

    rising = Tried("digits", "accuracy", {NONE: curves(0.5, 0.6), "tune": curves(0.6, 0.8)}, [0.4, 0.5])
    assert rising.gains("tune") == pytest.approx([10, 20])
    rows = rising.rows()
    assert rows[0] == ["digits, accuracy", *(f"round {n}" for n in range(1, 6)), "last", "gain", "each"]
    assert rows[2][-3:] == ["0.7", "+15.00", "+10.00 +20.00"]
    assert rows[3] == [ALONE, "", "", "", "", "", "0.45", "-10.00", ""]
    falling = Tried(
        "turbofan", "rmse", {NONE: curves(20.0), "tune": curves(18.0), "tune:every=2": curves(21.0)}, [25.0]
    )
    assert falling.gains("tune") == [2.0] and falling.gains("tune:every=2") == [-1.0]
    assert figures([falling]) == {
        "turbofan_none": 20.0, "turbofan_tune": 18.0, "turbofan_tune2": 21.0, "turbofan_alone": 25.0,
    }  # fmt: skip
