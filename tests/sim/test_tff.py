"""The engine tff: what it refuses, and where TensorFlow Federated is, whole runs that leave nothing behind."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, alive, descendants, environment, until
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.tff.installed import PACKAGE
from fedfleet.models.compiled import Compiled, load
from fedfleet.sim.brokers import running
from fedfleet.sim.record import read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import FedfleetError, SettingsError
from fedfleet.wire.messages import Blob, Plan

HERE = find_spec(PACKAGE) is not None
wants = pytest.mark.skipif(not HERE, reason="TensorFlow Federated is in .venv-tff alone: make test-tff")
missing = pytest.mark.skipif(HERE, reason="TensorFlow Federated is installed here")
SMALL = Simulation(
    devices=3, engine="tff", rounds=Rounds(total=2), plan=Plan(learning_rate=0.02, momentum=0.9), baselines=False
)
MODELS = """
import tensorflow as tf

def unseeded(frozen=True):
    still = tf.keras.layers.Dense(20, trainable=not frozen)
    return tf.keras.Sequential([tf.keras.Input((8, 8, 1)), tf.keras.layers.Flatten(), still, tf.keras.layers.Dense(10)])

def trained():
    return unseeded(False)
"""


def fedfleet(*arguments: str, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "simulate", "--engine", "tff", "--out", str(out), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
    )


def run(wanted: Simulation, out: Path) -> Path:
    return simulate(wanted, out, Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"strategy": "scaffold"}, "the engine tff cannot express scaffold: it has fedavg, fedavgm, fedprox, fedadam, "),
        ({"strategy": "krum:1"}, "cannot express krum:1: .*, tff.yogi, alone or behind tff:FACTORY+"),
        ({"strategy": "median+fedadam"}, "cannot express median.fedadam"),
        ({"strategy": "qfedavg:2"}, "cannot express qfedavg:2"),
        ({"local": ("dense",)}, "the engine tff does not have local: leave it out, or take another engine"),
        ({"plan": Plan(codec="int8")}, "does not have codec"),
        ({"plan": Plan(holdout=0.2)}, "does not have holdout"),
        ({"plan": Plan(second_moment=0.9)}, "does not have second_moment"),
        ({"rounds": Rounds(downlink="int8")}, "does not have downlink"),
        ({"rounds": Rounds(buffer=2)}, "does not have buffer"),
        ({"faults": "storm"}, "faults are made by the engine virtual alone"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_before_anything_starts(
    change: dict[str, object], text: str, tmp_path: Path
) -> None:
    changed = replace(SMALL, devices=7, **{"plan": Plan(), **change})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=text):
        run(changed, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@missing
def test_where_tff_is_not_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    _, err = (process := fedfleet(out=tmp_path / "runs")).communicate(timeout=120)
    assert process.returncode == 2
    (line,) = err.splitlines()
    assert line.startswith("fedfleet: the engine tff needs TensorFlow Federated 0.87, which is not installed: ")
    assert "pip install --no-deps --require-hashes -r tests/lock-tff.txt" in line
    assert (
        "docs/tff.md" in line and (ROOT / "docs" / "tff.md").is_file() and (ROOT / "tests" / "lock-tff.txt").is_file()
    )
    assert not (tmp_path / "runs").exists()


@wants
def test_a_run_has_the_same_records_report_and_result_line_and_leaves_no_process(tmp_path: Path) -> None:
    process = fedfleet("--devices", "3", "--rounds", "3", "--json", str(tmp_path / "run.json"), out=tmp_path / "runs")
    below = set[int]()
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        below |= set(descendants(process.pid))
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert len(below) >= 3 and until(lambda: not any(map(alive, below)))
    (folder,) = (tmp_path / "runs").iterdir()
    found = read(folder)
    assert found.outcome is not None and found.outcome.finished
    assert [record.called for record in found.rounds] == [record.reported for record in found.rounds] == [3, 3, 3]
    assert all(0 < record.train_loss < 3 and record.examples == 1438 for record in found.rounds)
    assert found.facts.engine == "tff" and found.facts.versions["tensorflow-federated"] == "0.87.0"
    figures = dict(pair.split("=") for pair in lines[-1].removeprefix("result ").split())
    assert figures["weights"] == Blob.of(load(folder / "model").weights.astype("<f4").tobytes()).digest
    assert float(figures["federation"]) == pytest.approx(found.rounds[-1].scores["accuracy"], abs=1e-4)
    assert len(json.loads((tmp_path / "run.json").read_text())["outcome"]["alone"]) == 3
    assert any("nothing: TensorFlow Federated has no devices" in line for line in lines)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert "left each device, no raw data" not in (folder / "report.html").read_text()


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@wants
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_end_in_the_middle_ends_tff_too(how: signal.Signals, tmp_path: Path) -> None:
    process = fedfleet("--devices", "2", "--rounds", "5000", out=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 2:"):
            break
    below = descendants(process.pid)
    assert {"fedfleet.sim.tff.worker", "worker_binary"} <= {
        name for name in ("fedfleet.sim.tff.worker", "worker_binary") for pid in below if name in command(pid)
    }
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert until(lambda: not any(map(alive, below)))
    (folder,) = tmp_path.iterdir()
    assert len(read(folder).rounds) >= 2
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert err.strip().endswith("everything that was started has been ended")
        assert not read(folder).finished
        assert "interrupted after" in (folder / "report.html").read_text()


@wants
def test_a_share_calls_the_same_devices_as_other_engines(tmp_path: Path) -> None:
    some = replace(SMALL, devices=6, rounds=Rounds(total=4, share=0.5))
    theirs, ours = (read(run(replace(some, engine=engine), tmp_path)) for engine in ("tff", "loopback"))
    assert [(r.called, r.examples) for r in theirs.rounds] == [(r.called, r.examples) for r in ours.rounds]
    assert {record.called for record in ours.rounds} != {6}
    np.testing.assert_allclose(theirs.rounds[0].train_loss, ours.rounds[0].train_loss, rtol=1e-3)


@wants
def test_training_that_diverges_ends_the_run_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(FedfleetError, match="the engine tff: training diverged in round 1: .* lower the learning rate"):
        run(replace(SMALL, plan=Plan(learning_rate=1e30)), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert read(folder).rounds == []


@wants
def test_more_batches_than_go_to_tff_at_once_are_refused_before_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(
        FedfleetError, match="d0 has .* bytes of batches in a round, more than 2000000000: ask for fewer"
    ):
        run(replace(SMALL, plan=Plan(steps=10_000_000)), tmp_path)


@wants
@pytest.mark.parametrize("engine", ["tff", "loopback"])
def test_a_factory_that_does_not_fit_ends_the_run_before_a_round(engine: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no NoFactory in tff.aggregators or tff.learning"):
        run(replace(SMALL, engine=engine, strategy="tff:NoFactory"), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert read(folder).rounds == []


@wants
def test_an_aggregator_finds_a_factory_beside_its_settings_and_ends_with_its_reason(
    small: Compiled, tmp_path: Path
) -> None:
    small.save(tmp_path / "model")
    (tmp_path / "mine.py").write_text("def none(): return 3\n")
    with running("auto", tmp_path) as (broker, _):
        settings = f'fleet = "f"\nmodel = "model"\nstrategy = "tff:mine.py:none"\n[broker]\nport = {broker.port}\n'
        (tmp_path / "settings.toml").write_text(settings + f"mqtt = {broker.mqtt}\n")
        command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(tmp_path / "settings.toml")]
        result = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd="/", check=False)
    assert result.returncode == 2
    reason = "none gives int; a rule is made of an aggregation factory"
    assert result.stderr == f"fedfleet: tff:mine.py:none: {reason}\n"


@wants
def test_a_model_that_comes_out_differently_each_time(tmp_path: Path) -> None:
    """TFF builds it in a process of its own: what trains begins with the run's weights, what is frozen has to agree."""
    (tmp_path / "m.py").write_text(MODELS)
    with pytest.raises(FedfleetError, match="comes out differently each time it is built, its frozen layers too: seed"):
        run(replace(SMALL, model=f"{tmp_path / 'm.py'}:unseeded"), tmp_path / "a")
    wanted = replace(SMALL, model=f"{tmp_path / 'm.py'}:trained")
    assert read(run(wanted, tmp_path / "b")).finished
