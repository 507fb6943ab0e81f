"""`fedfleet aggregate` over a real broker, with everything that an operator can ask of it switched on."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from commands import run as command
from conftest import FEATURES
from federations import Unwilling
from processes import environment, until

from fedfleet.cloud.fleet import devices, fleet
from fedfleet.cloud.registry import versions
from fedfleet.edge.agent import Agent, birth, death
from fedfleet.edge.state import State
from fedfleet.models.compiled import Compiled, Entry
from fedfleet.sim import brokers
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Will
from fedfleet.wire.errors import DataError, StoreError
from fedfleet.wire.examples import Examples
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TOPICS = Topics("mill")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with brokers.running("auto", tmp_path) as found:
        yield found.broker


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def settings(folder: Path, broker: Broker, more: str = "", rounds: int = 3) -> Path:
    Compiled(
        b"program", np.zeros(40, np.float32), (Entry("w", (40,), 0, 40),), "mean_squared_error", 4, (2,), (1,)
    ).save(folder / "model")
    text = f'fleet = "mill"\nmodel = "model"\n[rounds]\ntotal = {rounds}\ndevices = 2\n'
    text += f"[broker]\nport = {broker.port}\nmqtt = {broker.mqtt}\n{more}"
    (folder / "fleet.toml").write_text(text)
    return folder / "fleet.toml"


@contextmanager
def aggregating(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(path), *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def device(name: str, folder: Path, broker: Broker, error: Exception | None = None) -> Iterator[None]:
    """A device in a thread of this process, whose training costs nothing, or ends in `error`."""
    state, over = State(folder / name), Event()
    state.begin()
    bus = MqttBus(broker, name, Will(TOPICS.status(name), birth(state), death(state)))
    agent = Agent(name, TOPICS, bus, state, Unwilling(error) if error else SeededTrainer(name), time.monotonic)
    thread = Thread(target=agent.run, args=(over.is_set,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


def entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def page(port: int) -> str:
    link = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        link.request("GET", "/metrics")
        return link.getresponse().read().decode()
    except ConnectionRefusedError:
        return ""
    finally:
        link.close()


def test_a_run_is_seen_from_all_sides(tmp_path: Path, broker: Broker) -> None:
    port = free_port()
    path = settings(tmp_path, broker, f'[metrics]\nport = {port}\ntensorboard = "events"\n')
    with aggregating(path, "--log-format", "json") as process:
        with device("a", tmp_path, broker):
            assert until(lambda: "\nfedfleet_devices_present 1\n" in page(port), 60)
            assert fleet(tmp_path / "state").why == "1 of 2 devices are there"
            assert [(each.device, each.state) for each in devices(tmp_path / "state")] == [("a", "ready")]
            with device("b", tmp_path, broker):
                out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = entries(out)
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert lines[0]["message"] == "fedfleet aggregate: fleet mill, 3 rounds of fedavg"
    ended = [line for line in lines if "state" in line]
    assert [(line["round"], line["state"], line["reported"], line["level"]) for line in ended] == [
        (number, "closed", 2, "info") for number in (1, 2, 3)
    ]
    assert lines[-1]["message"].startswith("done: the trained model is in ")
    assert [(each.device, each.contributed, each.last_round) for each in devices(tmp_path / "state")] == [
        ("a", 3, 3),
        ("b", 3, 3),
    ]
    assert fleet(tmp_path / "state").state == "done"
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_what_goes_wrong_names_round_and_device(tmp_path: Path, broker: Broker) -> None:
    port = free_port()
    path = settings(tmp_path, broker, f"[metrics]\nport = {port}\n", rounds=10_000)
    with aggregating(path, "--log-format", "json") as process:
        with device("a", tmp_path, broker), device("b", tmp_path, broker, DataError("no examples")):
            assert until(lambda: "fedfleet_model_timestamp_seconds " in page(port), 60)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    lines = entries(out)
    assert lines[-1]["message"] == "interrupted; everything that was started has been ended"
    declined = next(line for line in lines if line["level"] == "warning")
    assert (declined["device"], declined["round"]) == ("b", 1)
    assert declined["message"] == "b declined round 1: no examples"


def test_mistakes_are_said_in_the_same_form(tmp_path: Path) -> None:
    with aggregating(tmp_path / "none.toml", "--log-format", "json") as process:
        out, err = process.communicate(timeout=60)
    (line,) = entries(out)
    assert (process.returncode, err, line["level"]) == (2, "", "error")
    assert line["message"].endswith("none.toml: no such settings file")


def test_a_port_that_is_taken_is_named(tmp_path: Path, broker: Broker) -> None:
    path = settings(tmp_path, broker, f"[metrics]\nport = {broker.port}\n")
    with aggregating(path) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == f"fedfleet: metrics: 127.0.0.1:{broker.port}: Address already in use; choose another host or port\n"
    assert out == "fedfleet aggregate: fleet mill, 3 rounds of fedavg\n"


def test_people_get_lines(tmp_path: Path, broker: Broker) -> None:
    with aggregating(settings(tmp_path, broker)) as process:
        with device("a", tmp_path, broker), device("b", tmp_path, broker):
            out, _ = process.communicate(timeout=60)
    lines = out.splitlines()
    assert lines[0] == "fedfleet aggregate: fleet mill, 3 rounds of fedavg"
    assert lines[1].startswith("waiting: ")
    assert [line.split(";")[0].rpartition(",")[0] for line in lines[2:5]] == [
        f"round {number} closed: 2 of 2 reported, 0 late" for number in (1, 2, 3)
    ]
    assert lines[5].startswith("done: the trained model is in ")


def why(folder: Path) -> str:
    """What the aggregator of `folder` is doing; nothing where it has not begun."""
    try:
        return fleet(folder).why
    except StoreError:
        return ""


def test_a_model_is_refined_and_whoever_is_killed_meanwhile_goes_on(
    tmp_path: Path, broker: Broker, small: Compiled, examples: Examples
) -> None:
    np.savez(tmp_path / "own.npz", x=examples.x, y=examples.y)
    (tmp_path / "m.py").write_text(f"from fedfleet.models import zoo\ndef build(): return zoo.tabular({FEATURES}, 3)\n")
    more = '[evaluation]\ndata = "npz:own.npz"\n[refine]\nkind = "tune"\ndata = "npz:own.npz"\nmodel = "m.py:build"\n'
    path = settings(tmp_path, broker, f'{more}every = 2\ngate = "loss"\nsteps = 100000\n')
    small.save(tmp_path / "model")
    with device("a", tmp_path, broker), device("b", tmp_path, broker):
        with aggregating(path) as process:
            waits = "refining the model of round 2: tune"
            assert until(lambda: why(tmp_path / "state") == waits, 60)
            process.kill()
        assert [version.round for version in versions(tmp_path / "state")] == [1]
        path.write_text(path.read_text().replace("steps = 100000", "steps = 3"))
        with aggregating(path) as process:
            out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    ended = [line for line in out.splitlines() if line.startswith("round ")]
    assert [line.split(":")[0] for line in ended] == ["round 2 closed", "round 3 closed"]
    assert "; refined: tune, 3 steps of 64 on 20 examples: taken, loss " in ended[0]
    assert "refined" not in ended[1]
    shown = " ".join(command("model", "show", str(tmp_path / "state"), "2").replace("│", " ").split())
    assert "refined tune, 3 steps of 64 on 20 examples: taken, loss" in shown and "; from weights " in shown
    assert command("model", "list", str(tmp_path / "state")).count("tune") == 1
