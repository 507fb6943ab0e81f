"""Whole comparisons: real training in every way, on the same data, and what kills really kill."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, alive, descendants, environment, until
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.sim.compare.contender import Case, Contender, Ending, Result
from fedfleet.sim.compare.fleets import _dealt
from fedfleet.sim.compare.run import Comparison, compare, contenders, require
from fedfleet.sim.datasets import load
from fedfleet.sim.split import split
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan

REFINE = ("tune:every=2,steps=20", 0.1)
SMALL = Simulation(
    devices=4,
    split="dirichlet:1",
    rounds=Rounds(total=6, devices=4, deadline=60.0),
    plan=Plan(epochs=2, learning_rate=0.02, momentum=0.9),
    baselines=False,
    dying=0.25,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    return compare(SMALL, contenders(*REFINE), tmp_path_factory.mktemp("runs"), Console(file=io.StringIO()))


def by_name(found: Comparison) -> dict[str, Result]:
    return {result.traits.name: result for result in found.results}


def _lines(folder: Path) -> list[str]:
    return next(folder.glob("*/metrics.jsonl")).read_text().splitlines()


def test_every_way_has_learned_from_the_same_data(small: tuple[Path, Comparison]) -> None:
    found = by_name(small[1])
    assert list(found) == ["train", "alone", "federation", "hybrid", "gossip"]
    assert all(result.whole.ended and result.whole.score is not None for result in found.values())
    assert found["train"].whole.score > 0.95  # type: ignore[operator]
    assert found["federation"].whole.score > found["alone"].whole.score  # type: ignore[operator]
    assert found["train"].whole.sent == small[1].raw == 1438 * (64 * 4 + 4)
    assert small[1].examples == 1438
    for name in ("train", "federation", "hybrid", "gossip"):
        assert len(found[name].whole.curve) == 6
        assert found[name].whole.curve[-1] == found[name].whole.score


def test_bytes_are_those_of_models_and_go_where_it_is_said(small: tuple[Path, Comparison]) -> None:
    found, comparison = by_name(small[1]), small[1]
    model = 4 * comparison.parameters
    assert found["alone"].whole.sent == 0
    assert found["alone"].whole.received == 4 * comparison.start_bytes
    for name in ("federation", "hybrid", "gossip"):
        assert 6 * 4 * model < found[name].whole.sent < 1.05 * 6 * 4 * model
    gossip = found["gossip"].whole.received - 4 * comparison.start_bytes
    assert 1.8 * 6 * 4 * model < gossip < 2.1 * 6 * 4 * model, "on a ring each reads two"


def test_deaths_are_real_and_told(small: tuple[Path, Comparison]) -> None:
    folder, comparison = small
    found = by_name(comparison)
    assert len(comparison.doomed) == 1
    lines = {
        name: [json.loads(line) for line in _lines(folder / f"{name}-deaths")] for name in ("federation", "gossip")
    }
    for name, records in lines.items():
        assert [record["reported"] for record in records] == [4, 4, 4, 3, 3, 3], name
        assert found[name].deaths.ended  # type: ignore[union-attr]
        assert "1 of 4 devices were gone" in found[name].deaths.said  # type: ignore[union-attr]
    central = found["train"].deaths
    assert central is not None
    assert not central.ended
    assert "killed after pass 6, it ended without a model; started again" in central.said
    assert central.score == found["train"].whole.score, "from its backup it takes the same steps"
    assert "1 of 4 devices have no model any more" in found["alone"].deaths.said  # type: ignore[union-attr]


def test_what_the_cloud_share_costs_is_told(small: tuple[Path, Comparison]) -> None:
    said = by_name(small[1])["hybrid"].whole.said
    assert "144 examples are the cloud's own, and no device has them (37.4 kB, if devices had to send them)" in said
    assert "3 times, the last one: tune, 20 steps" in said


def test_the_cloud_has_a_share_of_each_device_and_nothing_is_lost() -> None:
    dataset = load("digits", 0)
    parts = [*split("iid", dataset, 3, 0), Examples(dataset.train.x[:2], dataset.train.y[:2])]
    case = Case(SMALL, Path(), dataset, parts, None, None, print, None)  # type: ignore[arg-type]
    dealt = _dealt(case, 0.1)
    assert dealt.cloud is not None
    assert [len(whole.x) - len(part.x) for whole, part in zip(parts, dealt.parts, strict=True)] == [48, 48, 48, 0]
    together = np.concatenate([dealt.cloud.x, *(part.x for part in dealt.parts)])
    before = np.concatenate([part.x for part in parts])
    assert sorted(x.tobytes() for x in together) == sorted(x.tobytes() for x in before)
    assert _dealt(case, 0.0).parts is parts


def test_everything_lies_in_the_folder(small: tuple[Path, Comparison]) -> None:
    table = json.loads((small[0] / "compare.json").read_text())
    assert [result["traits"]["name"] for result in table["results"]] == list(by_name(small[1]))
    assert table["advice"]["name"] == small[1].advice.name != ""
    assert len(list(small[0].glob("*/*/report.html"))) == 6


def test_a_way_is_data_and_another_one_is_compared_just_so(tmp_path: Path) -> None:
    traits = replace(contenders(*REFINE)[2].traits, name="oracle", title="an oracle")

    def run(case: Case, dying: bool) -> Ending:
        case.tell("sees")
        return Ending(True, 1.0 - dying / 2, case.wanted.rounds.total, 0.1, 1, 1)

    _, found = compare(SMALL, [Contender(traits, run)], tmp_path, Console(file=io.StringIO()))
    assert found.advice.name == "oracle"
    assert found.results[0].deaths == Ending(True, 0.5, 6, 0.1, 1, 1)
    _, calm = compare(replace(SMALL, dying=0.0), [Contender(traits, run)], tmp_path, Console(file=io.StringIO()))
    assert calm.results[0].deaths is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dying": 0.05}, "a share of 0.05 of 4 devices is 0: some must die, and some live"),
        ({"dying": 1.0}, "is 4: some must die, and some live"),
        ({"rounds": Rounds(total=1)}, "a comparison takes at least 2 rounds"),
        ({"topology": "random:9"}, "4 devices can have 2 to 3 neighbours each"),
        ({"devices": 1}, "gossip takes at least 2 devices"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_starts(change: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        require(replace(SMALL, **change), *REFINE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--topology", "torus", "--devices", "7"], "7 is prime"),
        (["--refine", "polish"], "kind must be tune or distil, not 'polish'"),
        (["--cloud-share", "0"], "the cloud has no data"),
        (["--learning-rate", "0"], "learning_rate must be above 0"),
        (["--data", "npz:nowhere.npz"], "nowhere.npz"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line_and_with_2(arguments: list[str], text: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedfleet.cli.main", "compare", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert text in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_every_process_and_exits_with_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedfleet.cli.main", "compare", "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        assert until(lambda: list(tmp_path.glob("*/train/backup/job.json")), 120)
        below = descendants(process.pid)
        assert below
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert b"interrupted" in said
        assert until(lambda: not any(alive(pid) for pid in below), 30)
    finally:
        process.kill()
        process.wait()
