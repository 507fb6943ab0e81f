"""A fleet of one board over a real mosquitto: its aggregator hands out releases of a real repository."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ota.boards import DEVICE, FLEET, Board, bundle, install
from ota.owners import Owner

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.releases.published import Published, publish
from fedfleet.cloud.releases.serving import Serving
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.data import Store
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan, Status
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

PATIENCE = 60.0


class Cloud:
    """The aggregator, stepped by hand while the board is tended."""

    def __init__(self, aggregator: Aggregator, board: Board, owner: Owner, records: list[RoundRecord]) -> None:
        self.aggregator = aggregator
        self.board = board
        self.owner = owner
        self.records = records

    @property
    def status(self) -> Status:
        """The board's last word."""
        return self.aggregator.presence.statuses.get(DEVICE, Status("lost", 0))

    def until(self, holds: Callable[[], bool], *, tend: bool = True) -> None:
        """Go on until `holds()`."""
        end = time.monotonic() + PATIENCE
        while not holds():
            self.aggregator.step(0.05)
            if tend:
                self.board.tend()
            if time.monotonic() > end:
                raise TimeoutError(f"{self.status}; {self.aggregator.waiting()}; {self.board.log.read_text()[-3000:]}")

    def rounds(self, count: int) -> None:
        """Go on until `count` more rounds have closed."""
        wanted = sum(record.state == "closed" for record in self.records) + count
        self.until(lambda: sum(record.state == "closed" for record in self.records) >= wanted)

    def publish(self, version: str, **to: object) -> None:
        """Hand a release out."""
        publish(self.owner.repo, Published(version, **to))  # type: ignore[arg-type]


@contextmanager
def fleet(
    program: Compiled, folder: Path, more: str = "", release: str = "", deadline: float = 600.0
) -> Iterator[Cloud]:
    """A fleet whose board runs version 1.0.0 of the agent, signed and published."""
    found, made = Owner(folder), bundle(folder / "bundle-1.0.0", "1.0.0", other={"other.py": b"value = 1\n"})
    found.release(made)
    features = 300
    random = np.random.default_rng(5)
    x = random.normal(size=(20, features)).astype(np.float32)
    with running("mosquitto", folder) as (broker, _):
        board = Board(folder / "board", broker, found.repo / "metadata" / "1.root.json", more, release)
        install(board.slots, made)
        Store.open(board.state / "examples").append(Examples(x, random.integers(0, 3, 20).astype(np.int32)))
        records: list[RoundRecord] = []
        rounds = Rounds(total=1000, devices=1, deadline=deadline)
        plan = Plan(learning_rate=0.05)
        federation = Federation(program.program, program.shared, strategy("fedavg"), plan, rounds, 7)
        journal, bus, topics = Journal(folder / "cloud"), MqttBus(broker, f"{FLEET}-cloud"), Topics(FLEET)
        try:
            serving = Serving(found.repo, bus, topics, time.monotonic)
            parts = (federation, topics, bus, journal, time.monotonic, None, records.append)
            yield Cloud(Aggregator(*parts, releases=serving), board, found, records)
        finally:
            board.kill()
            bus.close()
            journal.close()
