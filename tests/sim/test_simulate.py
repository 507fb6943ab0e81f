"""Whole runs: one seed, one digest, whichever engine; real processes without TensorFlow; Ctrl-C leaves nothing behind."""

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
from brokers import KINDS
from processes import ROOT, alive, children, descendants, environment, loaded, until
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.models.compiled import load
from fedfleet.sim.brokers import running
from fedfleet.sim.datasets import load as load_data
from fedfleet.sim.engines import ENGINES
from fedfleet.sim.fleet import ProcessFleet, device_id, fill
from fedfleet.sim.record import Run, read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.split import split
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Blob, Plan

SMALL = Simulation(
    devices=3, rounds=Rounds(total=3, deadline=60.0), plan=Plan(learning_rate=0.02, momentum=0.9), baselines=False
)


def run(wanted: Simulation, out: Path) -> Run:
    return read(simulate(wanted, out, Console(file=io.StringIO())))


def digest(found: Run) -> str:
    assert found.outcome is not None
    assert found.outcome.finished
    return found.outcome.weights


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(SMALL, tmp_path_factory.mktemp("runs"), Console(file=io.StringIO()))


@pytest.mark.parametrize("engine", ["loopback", "virtual", *KINDS])
def test_the_same_seed_gives_the_same_weights_to_the_bit(engine: str, small: Path, tmp_path: Path) -> None:
    wanted = replace(SMALL, engine=engine) if engine in ENGINES else replace(SMALL, broker=engine)
    assert digest(run(wanted, tmp_path)) == digest(read(small))


def test_another_seed_gives_other_weights(small: Path, tmp_path: Path) -> None:
    assert digest(run(replace(SMALL, engine="loopback", seed=1), tmp_path)) != digest(read(small))


def test_a_run_leaves_what_it_promises(small: Path) -> None:
    found = read(small)
    assert [record.round for record in found.rounds] == [1, 2, 3]
    assert all(record.reported == record.called == 3 and record.late == 0 for record in found.rounds)
    assert all(record.bytes_up > 0 and record.bytes_down > 0 for record in found.rounds)
    trained = load(small / "model")
    assert Blob.of(trained.weights.astype("<f4").tobytes()).digest == digest(found) == found.rounds[-1].weights
    assert trained.digest == found.facts.program
    assert (small / "report.html").stat().st_size > 10_000
    assert len(list(small.glob("events.out.tfevents.*"))) == 1
    assert len((small / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_inference_model_gives_what_the_program_infers(small: Path) -> None:
    from fedfleet.models.runtime import interpreter

    images = load_data("digits", 0).test.x[:5]
    trained = load(small / "model")
    program = interpreter(trained.program)
    program.get_signature_runner("set")(weights=trained.weights)
    infer = program.get_signature_runner("infer")
    plain = interpreter((small / "model" / "infer.tflite").read_bytes()).get_signature_runner("infer")
    for image in images:
        expected = infer(x=image[None])["output"]
        np.testing.assert_allclose(next(iter(plain(x=image[None]).values())), expected, atol=1e-5)


def test_the_first_round_is_the_weighted_mean_of_what_each_device_learned(small: Path) -> None:
    """An independent reference: train each device's part by hand and average in float64."""
    from fedfleet.edge.data import batches
    from fedfleet.edge.local import batch_seed, fit
    from fedfleet.edge.runtime import Program
    from fedfleet.sim import program as programs
    from fedfleet.wire.messages import Task

    dataset = load_data("digits", 0)
    parts = split(SMALL.split, dataset, 3, 0)
    compiled = programs.compiled(programs.build(dataset, "digits", "", 0), dataset, 16)
    program = Program(small / "model" / "program.tflite", compiled.digest)
    blob = Blob.of(compiled.weights.tobytes())
    total, weight = np.zeros(compiled.weights.size), 0
    for index, part in enumerate(parts):
        program.set(compiled.weights)
        seed = batch_seed(Task(1, blob, blob, SMALL.plan), device_id(index))
        fit(program, SMALL.plan, batches([part], 16, seed, epochs=1), lambda: False, seed)
        total += len(part.x) * (program.get() - compiled.weights).astype(np.float64)
        weight += len(part.x)
    expected = compiled.weights + total / weight
    one = read(
        simulate(
            replace(SMALL, engine="loopback", rounds=Rounds(total=1)), small / "again", Console(file=io.StringIO())
        )
    )
    found = load(small / "again" / one.facts.id / "model").weights
    np.testing.assert_allclose(found, expected, atol=2e-7)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"engine": "carrier pigeon"}, "unknown engine"),
        ({"strategy": "fedmagic"}, "unknown strategy 'fedmagic'; known: fedavg"),
        ({"strategy": "krum:1"}, "krum:1 takes at least 5 devices, not 3: it has to choose"),
        ({"strategy": "scaffold", "plan": Plan(momentum=0.9)}, "scaffold does not go with momentum: set it to 0"),
        ({"plan": Plan(codec="gzip")}, "unknown codec 'gzip'; known: float32"),
        ({"devices": 0}, "devices must be"),
        ({"devices": 1001}, "devices must be 1 to 1000 with the engine mqtt"),
        ({"devices": 5001, "engine": "virtual"}, "devices must be 1 to 5000 with the engine virtual"),
        ({"faults": "storm"}, "faults are made by the engine virtual alone: --engine virtual"),
        ({"faults": "gale", "engine": "virtual"}, "unknown faults 'gale'"),
        ({"strategy": "median", "rounds": Rounds(buffer=2, staleness=1)}, "go into a mean alone, not median"),
        ({"rounds": Rounds(quorum=9)}, "quorum of 9 cannot be reached by 3 devices"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    change: dict[str, object], text: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=text):
        simulate(replace(SMALL, **change), tmp_path / "runs", Console(file=io.StringIO()))  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", KINDS[:1])
def test_agents_are_processes_of_their_own_without_tensorflow(kind: str, tmp_path: Path, small: Path) -> None:
    parts = split("iid", load_data("digits", 0), 2, 0)
    fill(tmp_path / "devices", parts)
    with running(kind, tmp_path) as (broker, _):
        fleet = ProcessFleet(tmp_path / "devices", 2, "inspected", broker)
        try:
            trainers = _one_round(small, broker, "inspected", fleet)
            pids = list(fleet.pids().values())
            assert len(set(pids)) == 2
            assert len(trainers) == 2
            for pid in [*pids, *trainers]:
                assert "tensorflow/" not in loaded(pid)
            assert all("litert" in loaded(pid) or "tflite" in loaded(pid) for pid in trainers)
            assert not any("numpy" in loaded(pid) for pid in pids), "the supervisor needs no numpy"
            assert fleet.gone() == []
        finally:
            fleet.close()
    assert not any(alive(pid) for pid in [*pids, *trainers])
    assert fleet.gone() == ["d0", "d1"]


def _one_round(trained: Path, broker: object, name: str, fleet: ProcessFleet) -> list[int]:
    """Run one round on `fleet` and return the process ids of the training children."""
    import time

    from fedfleet.cloud.aggregator import Aggregator
    from fedfleet.cloud.federation import Federation
    from fedfleet.cloud.journal import Journal
    from fedfleet.cloud.strategies import strategy
    from fedfleet.wire.mqtt import MqttBus
    from fedfleet.wire.topics import Topics

    compiled = load(trained / "model")
    rounds = Rounds(total=1, devices=2, deadline=60.0)
    federation = Federation(compiled.program, compiled.weights, strategy("fedavg"), SMALL.plan, rounds)
    journal, bus = Journal(trained / name), MqttBus(broker, f"{name}-cloud")  # type: ignore[arg-type]
    try:
        aggregator = Aggregator(federation, Topics(name), bus, journal, time.monotonic)
        while not aggregator.done:
            aggregator.step(0.05)
    finally:
        bus.close()
        journal.close()
    return [child for pid in fleet.pids().values() for child in children(pid)]


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "simulate", "--devices", "2", "--rounds", "5000"]
    return subprocess.Popen(
        [*command, "--out", str(out), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT,
    )  # fmt: skip


def await_round(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("round 2:"):
            return lines
    assert process.stderr is not None
    raise AssertionError(f"no second round: {lines} {process.stderr.read()}")


def test_ctrl_c_ends_every_process_and_leaves_a_readable_run(tmp_path: Path) -> None:
    process = start(tmp_path)
    lines = await_round(process)
    below = descendants(process.pid)
    assert len(below) >= 4
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().endswith("everything that was started has been ended")
    assert until(lambda: not any(alive(pid) for pid in below))
    (folder,) = tmp_path.iterdir()
    found = read(folder)
    assert len(found.rounds) >= 2
    assert found.outcome is not None
    assert not found.outcome.finished
    assert "interrupted after" in (folder / "report.html").read_text()
    assert "interrupted after" in out
    assert lines[0].startswith("fedfleet simulate: digits on 2 devices")


def test_a_killed_simulator_takes_its_fleet_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, "--broker", "amqtt")
    await_round(process)
    below = descendants(process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert until(lambda: not any(alive(pid) for pid in below))
    (folder,) = tmp_path.iterdir()
    assert len(read(folder).rounds) >= 2


def test_an_agent_that_dies_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    await_round(process)
    agent = next(pid for pid in descendants(process.pid) if "d0/agent.toml" in Path(f"/proc/{pid}/cmdline").read_text())
    (folder,) = tmp_path.iterdir()
    import os

    os.kill(agent, signal.SIGKILL)
    have = len(read(folder).rounds)
    assert until(lambda: any(r.reported == 1 and r.called == 1 for r in read(folder).rounds[have:]))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_the_json_file_holds_the_whole_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedfleet.cli.main", "simulate", "--devices", "2", "--rounds", "2"]
    command += ["--engine", "loopback", "--out", str(tmp_path), "--json", str(tmp_path / "run.json")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, check=True)
    last = result.stdout.strip().splitlines()[-1]
    figures = dict(pair.split("=") for pair in last.removeprefix("result ").split())
    table = json.loads((tmp_path / "run.json").read_text())
    assert last.startswith("result metric=accuracy ")
    assert table["outcome"]["weights"] == figures["weights"]
    assert [record["round"] for record in table["rounds"]] == [1, 2]
    assert len(table["outcome"]["alone"]) == 2
    assert float(figures["alone_worst"]) <= float(figures["alone_mean"])
    assert result.stderr == ""


def test_a_file_of_any_name_gets_the_model_for_its_columns(tmp_path: Path) -> None:
    """A CSV with columns of very different size learns, whatever its name, and its error is in its own units."""
    rng = np.random.default_rng(0)
    size, rate = rng.uniform(0, 1000, 300), rng.normal(5, 0.1, 300)
    rows = [f"{a:.3f},{b:.4f},{3 * a + 100 * b:.3f}" for a, b in zip(size, rate)]
    path = tmp_path / "digits My_Data.csv"
    path.write_text("\n".join(["size,rate,price", *rows]))
    data = f"csv:{path}?label=price"
    wanted = replace(SMALL, data=data, engine="loopback", split="iid", rounds=Rounds(total=10))
    found = run(wanted, tmp_path / "runs")
    assert found.outcome is not None
    assert found.outcome.federation is not None
    assert found.facts.metric == "rmse"
    assert found.outcome.federation < 0.3 * float(np.std(3 * size + 100 * rate))


@pytest.mark.parametrize(
    ("data", "split_by", "worst"), [("mnist:mnist10k", "iid", None), ("turbofan:cmapss", "natural", 60.0)]
)
def test_real_data_where_it_lies_at_hand(data: str, split_by: str, worst: float | None, tmp_path: Path) -> None:
    import os

    folder = Path(os.environ.get("FEDFLEET_DATA", ROOT.parent / "shared" / "data"))
    kind, _, name = data.partition(":")
    if not (folder / name).is_dir():
        pytest.skip(f"{folder / name} is not there")
    steps = Plan(epochs=1, steps=5, learning_rate=0.02, momentum=0.9)
    wanted = replace(SMALL, data=f"{kind}:{folder / name}", engine="loopback", split=split_by, plan=steps)
    found = run(replace(wanted, rounds=Rounds(total=2)), tmp_path)
    assert len(found.rounds) == 2
    assert found.outcome is not None
    assert found.outcome.federation is not None
    assert found.facts.unit == ("cycles" if kind == "turbofan" else "")
    assert worst is None or found.outcome.federation < worst
