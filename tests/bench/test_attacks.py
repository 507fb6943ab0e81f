"""benchmarks/attacks.py: who attacks, what the rules are told of it, both bars, and a last line like the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from attacks import ATTACKS, DENSE, Cell, Fleet, Tried, seeded, simulation, strategies
from processes import ROOT, environment

from fedfleet.models import source
from fedfleet.sim.fleet import device_id
from fedfleet.sim.simulate import check
from fedfleet.sim.virtual.faults import parse

SCRIPT = ROOT / "benchmarks" / "attacks.py"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=180, check=False)


@pytest.fixture
def easy(tmp_path: Path) -> str:
    """Eight features, one of them the label's, so that a fleet learns it in two rounds."""
    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    np.savez(tmp_path / "easy.npz", x=x, y=(x[:, 0] > 0).astype(np.int32))
    return f"npz:{tmp_path}/easy.npz"


def test_the_last_line_and_the_file_say_the_same(easy: str, tmp_path: Path) -> None:
    fleet = ("--data", easy, "--rounds", "2", "--devices", "4", "--attacks", "none,reverse")
    ended = benchmark(*fleet, "--strategies", "fedavg", "--json", str(tmp_path / "out.json"))
    assert ended.returncode == 0, ended.stderr
    shown = dict(pair.split("=") for pair in ended.stdout.splitlines()[-1].removeprefix("result ").split())
    verdicts = ["reverse_near", "reverse_mean_collapses"]
    assert list(shown) == ["clean", "none_fedavg", "reverse_fedavg", *verdicts, "seed", "attackers"]
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["fleet"]["attackers"] == 1
    for each in document["cells"]:
        assert len(each["scores"]) == 2
        assert float(shown[f"{each['attack']}_{each['strategy']}"]) == pytest.approx(each["last"], rel=0.01)
    assert shown["clean"] == shown["none_fedavg"]
    assert float(shown["reverse_fedavg"]) < float(shown["clean"])
    assert [each["refused"] for each in document["cells"]] == [0, 0]


def test_a_rule_that_the_fleet_is_too_small_for_is_one_line() -> None:
    ended = benchmark("--devices", "10", "--strategies", "fedavg", "bulyan:3")
    assert ended.returncode == 2
    assert "bulyan:3 takes at least 15 devices, not 10" in ended.stderr.splitlines()[-1]


def test_rules_are_told_of_all_attackers_but_bulyan_of_as_many_as_it_takes() -> None:
    told = ["fedavg", "median", "trimmed:0.33", "krum:9", "multikrum:9,21", "bulyan:6"]
    assert strategies(30, 9)[:6] == told
    assert "trimmed:0.49" in strategies(3, 2)
    for data in ("digits", "mnist:DIR"):
        for name in strategies(30, 9):
            for attack in ATTACKS:
                check(simulation(Fleet(data, 30, 3, 0), name, attack))


def test_exactly_the_share_attacks_and_always_the_same_ones() -> None:
    found = seeded(Fleet("digits", 30, 20, 0))
    assert found.bad == 9
    who = [
        [name for name in map(device_id, range(30)) if parse(f"{kind}=0.3").attack(found.seed, name)]
        for kind in ("sign", "scale", "labels", "reverse")
    ]
    assert len(who[0]) == 9
    assert who.count(who[0]) == 4
    assert seeded(found) == found
    assert seeded(found._replace(seed=found.seed + 1)).seed > found.seed


def test_both_bars() -> None:
    cells = [
        Cell("fedavg", "none", [0.9], 0, 1.0), Cell("fedavg", "sign", [0.1, 0.69], 0, 1.0),
        Cell("median", "none", [0.9], 0, 1.0), Cell("median", "sign", [0.9, 0.88], 0, 1.0),
        Cell("krum:1", "none", [0.8], 0, 1.0), Cell("krum:1", "sign", [0.1] * 8 + [0.8, 0.9], 0, 1.0),
    ]  # fmt: skip
    tried = Tried(0.9, cells)
    assert tried.rows() == [
        ["accuracy (points below)", "none", "sign"],
        ["fedavg", "0.900 (0.0)", "0.690 (21.0)"],
        ["median", "0.900 (0.0)", "0.880 (2.0)"],
        ["krum:1", "0.800 (10.0)", "0.850 (5.0)"],
    ]
    assert tried.near("sign") == ["median"]
    assert tried.verdict("sign") == {"sign_near": "1/2", "sign_mean_collapses": "yes"}
    higher = [cell._replace(scores=[0.71]) if cell.strategy == "fedavg" else cell for cell in cells]
    assert Tried(0.9, higher).verdict("sign")["sign_mean_collapses"] == "no"
    assert "sign_mean_collapses" not in Tried(0.9, cells[2:]).verdict("sign")


def test_the_dense_model_is_the_same_at_every_call() -> None:
    first, second = (source.build(f"{DENSE}:build").get_weights() for _ in range(2))
    assert sum(part.size for part in first) == 25450
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
