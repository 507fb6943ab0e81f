"""Real agents and a real aggregator under these settings: by both doors, with a broker that is killed half way."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import gossips
import numpy as np
import pytest
from broker.estates import FLEET, TOPICS, Estate, estate
from conftest import FEATURES
from processes import environment

from fedfleet.models.compiled import Compiled, load
from fedfleet.sim.gossip.graph import graph, row
from fedfleet.sim.gossip.peer import Launch, Peer, status
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Will
from fedfleet.wire.messages import Blob, Plan
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

ROUNDS = 3


def table(broker: Broker) -> str:
    """A broker as settings have it."""
    lines = [f'host = "{broker.host}"', f"port = {broker.port}", "tls = true", "keepalive = 6"]
    lines += [f'{key} = "{getattr(broker, key)}"' for key in ("ca", "certificate", "key", "transport")]
    return "\n".join(["[broker]", *lines, ""])


def agent(folder: Path, at: Estate, name: str, *, socket: bool, seed: int) -> subprocess.Popen[bytes]:
    """An agent with 30 examples of its own, as its owner starts it."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    np.savez(folder / "own.npz", x=random.normal(size=(30, FEATURES)), y=random.integers(0, 3, 30))
    broker = at.broker(at.enrol(name), socket=socket)
    (folder / "agent.toml").write_text(f'device = "{name}"\nfleet = "{FLEET}"\n{table(broker)}')
    command = [sys.executable, "-m", "fedfleet.edge", "--settings", str(folder / "agent.toml")]
    subprocess.run([*command, "import", str(folder / "own.npz")], env=environment(), check=True, capture_output=True)
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, env=environment(), stderr=log)


def aggregator(folder: Path, at: Estate) -> subprocess.Popen[str]:
    """The aggregator of the program in `folder`."""
    text = f'fleet = "{FLEET}"\nmodel = "model"\n[rounds]\ntotal = {ROUNDS}\ndevices = 2\ndeadline = 120\n'
    (folder / "fleet.toml").write_text(text + table(at.broker()))
    command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(folder / "fleet.toml")]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)


def federation(folder: Path, small: Compiled, *, kill: bool) -> bytes:
    """Run a whole federation, by TCP and by WebSocket; returns the model that came of it."""
    folder.mkdir()
    with estate(folder) as at, ExitStack() as stack:
        small.save(folder / "model")
        for seed, (name, socket) in enumerate({"pump-1": False, "pump-2": True}.items()):
            stack.callback(stack.enter_context(agent(folder / name, at, name, socket=socket, seed=seed)).kill)
        cloud = stack.enter_context(aggregator(folder, at))
        stack.callback(cloud.kill)
        assert cloud.stdout is not None
        rounds = list[str]()
        for line in cloud.stdout:
            rounds += [line] if line.startswith("round ") else []
            if kill and len(rounds) == 1:
                kill = False
                at.mosquitto.kill()
                (at.folder / "data/mosquitto.db").unlink(missing_ok=True)  # it has forgotten everything
                at.mosquitto.start()
        assert cloud.wait() == 0
        assert [line.split(":")[0] for line in rounds] == [f"round {number} closed" for number in range(1, ROUNDS + 1)]
        assert all("2 of 2 reported" in line for line in rounds), rounds
        assert "denied" not in at.mosquitto.said.lower()
        return load(folder / "state" / "model").weights.tobytes()


def test_a_broker_that_is_killed_and_forgets_changes_nothing(kind: str, tmp_path: Path, small: Compiled) -> None:
    whole = federation(tmp_path / "whole", small, kill=False)
    assert federation(tmp_path / "killed", small, kill=True) == whole
    assert whole != small.weights.tobytes()


@pytest.mark.parametrize("socket", [False, True], ids=["tcp", "websocket"])
def test_devices_that_gossip_come_to_the_same_as_without_a_broker(kind: str, tmp_path: Path, socket: bool) -> None:
    wires, rounds = graph("ring", 3, 0), 3
    expected = gossips.World(tmp_path / "alone", wires, rounds=rounds)
    expected.play()
    with estate(tmp_path, "--gossip") as at, ExitStack() as stack:
        peers = list[Peer]()
        for index in range(len(wires)):
            device = gossips.name(index)
            folder = tmp_path / device
            folder.mkdir()
            (folder / "0.weights").write_bytes(gossips.start(40).tobytes())
            shares = {gossips.name(other): share for other, share in row(wires, index).items()}
            blobs = Blob.of(gossips.PROGRAM), Blob.of(gossips.start(40).tobytes())
            launch = Launch(device, FLEET, shares, rounds, gossips.SEED, 60.0, Plan(), *blobs)
            will = Will(TOPICS.status(device), status("ready"), status("lost"))
            bus = MqttBus(at.broker(at.enrol(device), socket=socket), device, will)
            stack.callback(bus.close)
            peers.append(Peer(launch, folder, bus, SeededTrainer(device)))
        end = time.monotonic() + 60
        while not all(peer.done for peer in peers):
            assert time.monotonic() < end, [peer.round for peer in peers]
            for peer in peers:
                peer.step(0.02)
        for index in range(len(wires)):
            found = (tmp_path / gossips.name(index) / f"{rounds}.weights").read_bytes()
            assert found == expected.weights(index, rounds).tobytes()
