"""A rollout as its operator meets it: `fedfleet aggregate` and a real broker, and the aggregator killed in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from brokers import OPEN, free_port, mosquitto, needs_mosquitto
from fleets import fedfleet
from ota.owners import Owner
from processes import environment, until
from rollouts import NEW, OLD, Board, bundle

from fedfleet.cloud.releases.published import Published, publish, published
from fedfleet.cloud.rollout.course import Handed
from fedfleet.models.compiled import Compiled, Entry
from fedfleet.wire import release
from fedfleet.wire.calling import Ability
from fedfleet.wire.messages import Status, decode, encode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TOPICS = Topics("mill")


class Device:
    """A board with a link of its own."""

    def __init__(self, board: Board, broker: Broker) -> None:
        self.board, self.bus = board, MqttBus(broker, board.name)
        self.handed: Handed | None = None
        self.bus.subscribe(TOPICS.release)
        self.say()

    def step(self) -> None:
        for delivery in self.bus.deliveries(0):
            told = decode(release.Release, delivery.payload)
            self.handed = Handed(told.version, told.groups, told.share)
        before = (self.board.version, self.board.word)
        self.board.step(self.handed)
        if (self.board.version, self.board.word) != before:
            self.say()

    def say(self) -> None:
        board = self.board
        text = release.said(board.of, board.word) if board.word else ""
        status = Status("ready", 1, ability=Ability(board.tags), version=board.version, release=text)
        self.bus.publish(TOPICS.status(board.name), encode(status), retain=True)


@contextmanager
def aggregating(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(file)]
    with (file.parent / "aggregate.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@needs_mosquitto
def test_a_rollout_goes_on_where_it_was_when_the_aggregator_was_killed(tmp_path: Path) -> None:
    owner, port = Owner(tmp_path), free_port()
    for version in (OLD, NEW):
        owner.release(bundle(tmp_path / version, version))
    publish(owner.repo, Published(OLD))
    layout = (Entry("dense/kernel", (2, 3), 0, 6),)
    Compiled(b"program", np.zeros(6, np.float32), layout, "mse", 8, (2,), (3,)).save(tmp_path / "model")
    file = tmp_path / "fleet.toml"
    tables = f"[releases]\nrepository = 'repo'\n[rounds]\ndevices = 1000\n[broker]\nport = {port}\n"
    file.write_text(f'fleet = "mill"\nmodel = "model"\n{tables}')
    boards = [Board(f"d{number}", (f"g{number % 2 + 1}",)) for number in range(4)]
    with ExitStack() as stack:
        stack.enter_context(mosquitto(tmp_path, port, OPEN))
        devices = [Device(board, Broker(port=port)) for board in boards]
        for device in devices:
            stack.callback(device.bus.close)
        begun = fedfleet("rollout", "start", file, NEW, "--group", "g1", "--group", "g2", "--json")
        assert begun.returncode == 0, begun.stderr
        assert published(owner.repo) == Published(NEW, ("g1",))

        def reached(*tags: str) -> bool:
            for device in devices:
                device.step()
            return {board.tags[0] for board in boards if board.version == NEW} == set(tags)

        with aggregating(file) as process:
            assert until(lambda: reached("g1"), 60)
            process.kill()
            process.wait()
        assert published(owner.repo) == Published(NEW, ("g1",))
        with aggregating(file):
            assert until(lambda: reached("g1", "g2"), 60)
            assert until(lambda: reached("g1", "g2") and _status(file)["state"] == "done", 60)
    assert [group["well"] for group in _status(file)["groups"]] == [2, 2]


def _status(file: Path) -> dict[str, object]:
    return dict(json.loads(fedfleet("rollout", "status", file, "--json").stdout)["rollout"])
