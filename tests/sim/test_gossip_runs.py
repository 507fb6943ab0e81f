"""Whole runs without an aggregator: real processes, a real broker, one seed and one digest; also where devices die."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brokers import KINDS
from processes import alive, descendants, environment, until
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.edge.stopping import Stopping
from fedfleet.models.compiled import load
from fedfleet.sim import report
from fedfleet.sim.brokers import running
from fedfleet.sim.datasets import load as load_data
from fedfleet.sim.gossip.device import gossip
from fedfleet.sim.gossip.graph import graph, matrix
from fedfleet.sim.gossip.peer import Launch
from fedfleet.sim.record import Run, read
from fedfleet.sim.simulate import check, simulate
from fedfleet.sim.split import split
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import ProgramError, SettingsError
from fedfleet.wire.messages import Blob, Plan, Status, Task, decode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.record import plain
from fedfleet.wire.topics import Topics

SMALL = Simulation(
    engine="gossip",
    devices=4,
    rounds=Rounds(total=3, deadline=60.0),
    plan=Plan(learning_rate=0.02, momentum=0.9),
    baselines=False,
)


def run(wanted: Simulation, out: Path) -> Run:
    return read(simulate(wanted, out, Console(file=io.StringIO())))


def digest(found: Run) -> str:
    assert found.finished
    assert found.outcome is not None
    return found.outcome.weights


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(SMALL, tmp_path_factory.mktemp("runs"), Console(file=io.StringIO()))


@pytest.mark.parametrize("broker", KINDS)
def test_the_same_seed_gives_the_same_bits_over_every_broker(broker: str, small: Path, tmp_path: Path) -> None:
    assert digest(run(replace(SMALL, broker=broker), tmp_path)) == digest(read(small))


def test_real_training_over_a_real_broker_is_what_numpy_makes_of_it(small: Path) -> None:
    """An independent reference: train each device's part by hand, and multiply by the matrix."""
    from fedfleet.edge.data import batches
    from fedfleet.edge.local import batch_seed, fit
    from fedfleet.edge.runtime import Program
    from fedfleet.sim import program as programs

    dataset = load_data("digits", 0)
    parts = split(SMALL.split, dataset, 4, 0)
    compiled = programs.compiled(programs.build(dataset, "digits", "", 0), dataset, 16)
    program = Program(small / "model" / "program.tflite", compiled.digest)
    blob = Blob.of(compiled.weights.tobytes())
    models = np.tile(compiled.weights, (4, 1))
    for round_ in (1, 2, 3):
        trained = []
        for index, part in enumerate(parts):
            program.set(models[index])
            seed = batch_seed(Task(round_, blob, blob, SMALL.plan), f"d{index}")
            fit(program, SMALL.plan, batches([part], 16, seed, epochs=1), lambda: False, seed)
            trained.append(program.get().astype(np.float64))
        models = (matrix(graph("ring", 4, 0)) @ np.stack(trained)).astype(np.float32)
    for index in range(4):
        found = np.frombuffer((small / "devices" / f"d{index}" / "3.weights").read_bytes(), "<f4")
        np.testing.assert_allclose(found, models[index], atol=2e-5)
    np.testing.assert_allclose(load(small / "model").weights, models.mean(axis=0), atol=2e-5)


def test_a_run_says_what_is_the_mean_and_what_devices_hold(small: Path) -> None:
    found = read(small)
    assert found.gossips
    assert found.facts.strategy == "gossip:ring"
    assert [record.reported for record in found.rounds] == [4, 4, 4]
    last = found.rounds[-1].scores
    assert last["worst_accuracy"] <= last["mean_accuracy"] <= 1
    assert last["distance"] > 0
    size = 4 * found.facts.parameters
    assert all(4 * size < record.bytes_up < 4.1 * size for record in found.rounds)
    assert 7.5 * size < found.outcome.bytes_down / 3 < 8.5 * size, "a ring: everyone reads two"  # type: ignore[union-attr]
    rows = [row[0] for row in report.table(found)]
    assert "gossip, mean of all models, 3 rounds" in rows
    assert "gossip, worst device's own model" in rows
    assert report.figures(found)["consensus"] == f"{last['accuracy']:.4f}"
    page = (small / "report.html").read_text()
    assert "which no device holds" in page
    assert "federation" not in page.replace("fedfleet", "")


def test_it_converges_on_digits_and_devices_agree(tmp_path: Path) -> None:
    plan = Plan(epochs=2, learning_rate=0.02, momentum=0.9)
    wanted = replace(SMALL, devices=8, topology="torus", plan=plan, rounds=Rounds(total=20, deadline=60.0))
    found = run(wanted, tmp_path)
    scores = [record.scores for record in found.rounds]
    assert scores[-1]["accuracy"] > 0.95
    assert scores[-1]["worst_accuracy"] > 0.75
    assert scores[-1]["distance"] < 0.15


def test_the_dead_are_left_out_the_rest_goes_on_and_the_bits_are_the_same_again(tmp_path: Path) -> None:
    wanted = replace(SMALL, devices=6, dying=0.34, rounds=Rounds(total=4, deadline=60.0))
    first, second = run(wanted, tmp_path / "1"), run(wanted, tmp_path / "2")
    assert [record.reported for record in first.rounds] == [6, 6, 4, 4]
    assert first.rounds[-1].reason == "4 of 6 mixed"
    assert digest(first) == digest(second)
    assert digest(first) != digest(run(replace(wanted, dying=0.0), tmp_path / "3"))


def test_where_all_devices_end_the_run_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="all devices ended; .*agent.log says why"):
        run(replace(SMALL, plan=Plan(learning_rate=1e9)), tmp_path)
    log = next(tmp_path.glob("*/devices/d0/agent.log")).read_text()
    assert "lower the learning rate" in log


def test_a_device_that_cannot_train_says_so_before_it_ends(tmp_path: Path) -> None:
    start = np.zeros(4, "<f4").tobytes()
    with running(KINDS[0], tmp_path) as (broker, _):
        launch = Launch(
            "d0", "test", {"d0": 0.5, "d1": 0.5}, 1, 0, 60.0, Plan(), Blob.of(b"x"), Blob.of(start), broker=broker
        )
        (tmp_path / "launch.json").write_text(json.dumps(plain(launch)))
        (tmp_path / "0.weights").write_bytes(start)
        (tmp_path / "program.tflite").write_bytes(b"not the program")
        with pytest.raises(ProgramError, match="other bytes than its name says"):
            gossip(tmp_path, Stopping())
        bus = MqttBus(broker, "looks-on")
        try:
            bus.subscribe(Topics("test").status("d0"))
            assert decode(Status, bus.deliveries(5.0)[0].payload).state == "lost"
        finally:
            bus.close()


@contextmanager
def gossiping(folder: Path, rounds: int) -> Iterator[subprocess.Popen[bytes]]:
    """A run by the command, once its devices have made some rounds."""
    command = [sys.executable, "-m", "fedfleet.cli.main", "simulate", "--engine", "gossip", "--devices", "4"]
    command += ["--rounds", str(rounds), "--out", str(folder)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert until(lambda: list(folder.glob("*/devices/d2/3.json")), 120)
        yield process
    finally:
        process.kill()
        process.wait()


def device(parent: int, name: str) -> int:
    """The process id of a device."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(parent) if alive(pid)}
    return next(pid for pid, line in lines.items() if line.rstrip(b"\0").endswith(f"/devices/{name}".encode()))


def test_a_device_killed_from_outside_at_any_moment_does_not_end_the_run(tmp_path: Path) -> None:
    with gossiping(tmp_path, 60) as process:
        os.kill(device(process.pid, "d2"), signal.SIGKILL)
        assert process.wait(240) == 0
    found = read(next(tmp_path.iterdir()))
    assert found.finished
    assert found.rounds[0].reported == 4
    assert found.rounds[-1].reason == "3 of 4 mixed"
    assert all("unevenly" not in record.reason for record in found.rounds)


def test_an_interrupt_ends_all_devices_and_leaves_a_readable_run(tmp_path: Path) -> None:
    with gossiping(tmp_path, 3000) as process:
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert until(lambda: not any(alive(pid) for pid in below), 30)
    found = read(next(tmp_path.iterdir()))
    assert not found.finished
    assert found.outcome is not None


@pytest.mark.parametrize("kind", KINDS[:1])
def test_nothing_is_left_at_a_broker_that_goes_on(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as (broker, _):
        run(replace(SMALL, broker=f"127.0.0.1:{broker.port}", rounds=Rounds(total=1)), tmp_path / "runs")
        bus = MqttBus(broker, "looks-on")
        try:
            for levels in (6, 8):
                bus.subscribe("/".join("+" * levels))
            bus.publish("a/b/c/d/e/f", b"last")
            found = bus.deliveries(5.0)
            assert [delivery.topic for delivery in found] == ["a/b/c/d/e/f"]
        finally:
            bus.close()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"topology": "star"}, "topology 'star' is unknown"),
        ({"topology": "torus", "devices": 7}, "7 is prime"),
        ({"strategy": "fedadam"}, "gossip takes no strategy: its rule is the mean with the neighbours"),
        ({"rounds": Rounds(share=0.5)}, "gossip takes no share below 1"),
        ({"rounds": Rounds(buffer=2, staleness=1)}, "gossip takes no buffer"),
        ({"plan": Plan(codec="int8")}, "gossip takes no codec: models travel whole"),
        ({"plan": Plan(holdout=0.2)}, "gossip takes no holdout"),
        ({"faults": "storm"}, "faults are made by the engine virtual alone"),
        ({"engine": "virtual", "dying": 0.3}, "devices of the engine virtual die by its faults"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(change: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        check(replace(SMALL, **change))  # type: ignore[arg-type]


def test_the_command_refuses_a_bad_topology_in_one_line_and_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedfleet.cli.main", "simulate", "--engine", "gossip", "--topology", "torus"]
    ended = subprocess.run(
        [*command, "--devices", "7"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines() == [
        "fedfleet: a torus needs rows and columns, and 7 is prime: take another number of devices, or the ring"
    ]
    assert list(tmp_path.iterdir()) == []
