"""A device's updater over a broker in memory, and the cloud's side of it, both driven by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from ota.boards import DEVICE, bundle_of, install
from ota.owners import Owner

from fedfleet.cloud.releases.published import Published, publish
from fedfleet.cloud.releases.serving import Serving
from fedfleet.edge.ota.slots import Slots
from fedfleet.edge.ota.trial import Gate
from fedfleet.edge.ota.trust import wall
from fedfleet.edge.ota.updater import AGAIN, Updater
from fedfleet.wire.loopback import Hub
from fedfleet.wire.topics import Topics

TOPICS = Topics("mill")
AGENT = {"fedfleet/edge/__main__.py": b"print('an agent')\n", "fedfleet/edge/big.py": bytes(range(256)) * 600}


class Device:
    """A board that runs version 1.0.0, and an owner whose releases it takes."""

    def __init__(self, folder: Path, owner: Owner, tags: tuple[str, ...] = (), version: str = "1.0.0") -> None:
        self.folder = folder
        self.owner = owner
        self.tags = tags
        self.hub = Hub()
        self.now = 1000.0
        self.date: datetime | None = None
        self._cloud = self.hub.connect()
        self._cloud.subscribe(TOPICS.want())
        self.serving = Serving(owner.repo, self._cloud, TOPICS, lambda: self.now)
        if not (folder / "slots").exists():
            install(folder / "slots", self.bundle("1.0.0"))
        self.start(version)

    def start(self, version: str) -> None:
        """Begin a life of the agent from the slot `version`."""
        self.slots = Slots(self.folder / "slots", version)
        self.bus = self.hub.connect()
        gate = Gate(self.slots, 60.0, lambda: self.now)
        place = self.folder / "state" / "release"
        parts = (DEVICE, TOPICS, self.bus, self.slots, gate, place, self.owner.anchor(), self.tags)
        self.updater = Updater(*parts, lambda: self.now, lambda: self.date or wall())

    def bundle(self, version: str, files: Mapping[str, bytes] = AGENT, **fields: str) -> Path:
        """Make a bundle of a small wheel."""
        return bundle_of(self.folder / f"bundle-{version}", version, {"agent": files}, **fields)

    def release(self, version: str, **fields: str) -> None:
        """Make a bundle, sign it, and hand it out."""
        self.owner.release(self.bundle(version, {**AGENT, "version.py": version.encode()}, **fields))
        self.publish(version)

    def publish(self, version: str, **to: object) -> None:
        """Hand a release out."""
        publish(self.owner.repo, Published(version, **to))  # type: ignore[arg-type]
        self.serve()

    def serve(self) -> None:
        """Let the cloud look, and say what it has to say."""
        self.now += 1.0
        for _ in range(100):
            self.serving.step()

    def look(self, work: str = "idle", steps: int = 60) -> str:
        """Let the device step; returns what it says of the release."""
        for _ in range(steps):
            for topic, payload in self.bus.deliveries(0):
                self.updater.take(topic, payload)
            self.updater.step(work)
        return self.updater.said

    def again(self) -> str:
        """Let the device look once more at what it has refused."""
        self.now += AGAIN
        return self.look()

    @property
    def current(self) -> str:
        """The version that starts next."""
        return self.slots.link("current")
