"""One hardened broker for all that a stranger may try on it, in each mosquitto that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker.authority import Authority, pki
from broker.raw import Raw, Way
from broker.running import KINDS, Mosquitto, on_path
from commands import run as command

from fedfleet.sim.brokers import free_port

NAMES = ("pump-1", "pump-2", "claim-0123456789ab", "witness")
# sees all and may do all, so that whatever got through is heard
WITNESS = "\nuser witness\ntopic readwrite #\ntopic readwrite $SYS/#\ntopic readwrite $CONTROL/#\n"
WAYS = {"5": (5, False), "3.1.1": (4, False), "5 in a WebSocket": (5, True)}


class Yard:
    """A broker that runs, and the certificates of all who try to use it, by file name."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder, self.ports = folder, (free_port(), free_port())
        self.authority: Authority = pki(folder, self.ports[0])
        for name in NAMES:
            self.authority.sign(name, name)
        command("broker", "config", str(folder), "--websockets", str(self.ports[1]), *more)
        with (folder / "acl").open("a") as file:
            file.write(WITNESS)
        self.mosquitto = Mosquitto(folder)
        self.way = Way(folder / "ca.pem", self.ports[0])

    def by(self, way: str) -> Way:
        """One of WAYS."""
        level, socket = WAYS[way]
        return self.way._replace(level=level, socket=socket, port=self.ports[socket])

    def certificate(self, file: str) -> Path:
        """The certificate of that name."""
        return self.folder / f"{file}.pem"

    def connect(self, file: str, way: str = "5", **options: object) -> Raw:
        """A client that has been let in."""
        found = Raw(self.by(way), self.certificate(file), **{"client_id": file, **options})  # type: ignore[arg-type]
        assert found.answer == 0
        return found


@pytest.fixture(scope="package", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of the mosquittos that there are, as the one that is installed."""
    with on_path(request.param):
        yield request.param


def running(kind: str, factory: pytest.TempPathFactory, *more: str) -> Iterator[Yard]:
    yard = Yard(factory.mktemp("yard"), *more)
    yard.mosquitto.start()
    yield yard
    yard.mosquitto.kill()


@pytest.fixture(scope="package")
def yard(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """The broker of a fleet with an aggregator."""
    yield from running(kind, tmp_path_factory)


@pytest.fixture(scope="package")
def gossips(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """The broker of a fleet that learns without a server."""
    yield from running(kind, tmp_path_factory, "--gossip")


@pytest.fixture
def witness(yard: Yard) -> Iterator[Raw]:
    """Who hears all that the broker lets through."""
    found = yard.connect("witness")
    for pattern in ("#", "$CONTROL/#"):
        assert found.subscribe(pattern) == 1
    found.heard()
    yield found
    found.leave()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Each way in."""
    return str(request.param)


@pytest.fixture
def enter(yard: Yard) -> Iterator[Callable[..., Raw]]:
    """Let clients in that leave at the end of the test."""
    inside = list[Raw]()

    def one(file: str, way: str = "5", **options: object) -> Raw:
        inside.append(yard.connect(file, way, **options))
        return inside[-1]

    yield one
    for each in inside:
        each.leave()
