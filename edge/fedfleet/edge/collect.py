"""The collector: `python -m fedfleet.edge.collect SETTINGS` brings a device's examples into its store.

A process of its own, which the agent keeps running, because it loads numpy and the owner's code: neither its memory nor
its faults are the agent's. It ends when its stdin does. Without a source it drops what is too old, and ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fedfleet.edge import limits
from fedfleet.edge.data import Store
from fedfleet.edge.settings import AgentSettings, load_agent
from fedfleet.edge.sources.source import Source
from fedfleet.wire.bus import Bus
from fedfleet.wire.errors import BusDown, DataError, FedfleetError, StoreError
from fedfleet.wire.settings import Broker

log = logging.getLogger("fedfleet.collect")
PERIOD = 1.0
HOUR = 3600.0
TELL = 60.0  # seconds before the same trouble is told again
DAY = 86400.0


def main() -> None:
    """Collect until stdin ends. Exits with 0, or 2 and one line for the owner's mistakes."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    limits.hold(limits.half())
    path = Path(sys.argv[1])
    try:
        settings, folder = load_agent(path)
        with alone(folder / "collect.lock"):
            collector = Collector(settings, folder, sources(settings, path.resolve().parent, folder))
            collector.run(_waiting)
    except FedfleetError as error:
        log.error("%s", error)
        sys.exit(2)


class Collector:
    """The sources of one device and what they feed."""

    def __init__(
        self,
        settings: AgentSettings,
        folder: Path,
        sources: Sequence[Source],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Feed the store in the state folder `folder` from `sources`."""
        self._settings = settings
        self._examples = folder / "examples"
        self._sources = sources
        self._clock = clock
        self._store: Store | None = None
        self._forgot: float | None = None
        self._told: dict[str, float] = {}

    def run(self, waiting: Callable[[float], bool]) -> None:
        """Poll all sources once a second, as long as `waiting(seconds)` says so; once if there are none."""
        self.step()
        while self._sources and waiting(PERIOD):
            self.step()

    def step(self) -> None:
        """Poll each source once, and drop what is too old once an hour; trouble is told and waited out."""
        if self._store is None:
            self._attempt(self._open)
        if self._store is None:
            return
        for source in self._sources:
            self._attempt(partial(source.poll, self._store))
        if self._forgot is None or self._clock() - self._forgot >= HOUR:
            self._attempt(self._forget)

    def _open(self) -> None:
        self._store = opened(self._settings, self._examples)

    def _forget(self) -> None:
        self._forgot = self._clock()
        gone = self._store.forget() if self._store is not None else 0
        if gone:
            log.info("%d examples older than %g days dropped", gone, self._settings.max_example_age)

    def _attempt(self, work: Callable[[], object]) -> None:
        """Do `work`; what keeps it from being done is told once a minute."""
        try:
            work()
        except (StoreError, BusDown, DataError) as error:
            now, text = self._clock(), str(error)
            if now - self._told.get(text, -TELL) >= TELL:
                log.error("%s", text)
                self._told = {known: at for known, at in self._told.items() if now - at < TELL} | {text: now}


def opened(settings: AgentSettings, examples: Path) -> Store:
    """Open the store as the settings bound it."""
    return Store.open(examples, settings.max_example_bytes, max_age=settings.max_example_age * DAY)


def sources(settings: AgentSettings, beside: Path, folder: Path) -> list[Source]:
    """Return the sources that the settings name, paths relative to `beside`. Raises SettingsError, StoreError."""
    found: list[Source] = []
    wanted = settings.source
    # each is imported where it is wanted: most boards have one
    if wanted.folder:
        from fedfleet.edge.sources.folder import FolderSource

        found.append(FolderSource(wanted.folder, beside, folder / "collected.jsonl"))
    if wanted.readings:
        from fedfleet.edge.sources.readings import ReadingsSource

        broker = wanted.readings.broker or settings.broker
        found.append(ReadingsSource(wanted.readings, lambda: connect(broker, f"{settings.device}-readings")))
    if wanted.python:
        from fedfleet.edge.sources.python import PythonSource

        found.append(PythonSource(wanted.python, beside))
    return found


def connect(broker: Broker, name: str) -> Bus:
    """Connect to the sensors' broker, now or when it is there."""
    from fedfleet.wire.mqtt import MqttBus

    return MqttBus(broker, name, wait=0)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the file `path`, so that there is one collector, even after an agent that was killed. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("wb")
    except OSError as error:
        raise StoreError(f"{path} cannot be held: {error.strerror}; free the disk or check it") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{path} is held: another collector is at work; end it, or choose another state") from None
        yield


def _waiting(seconds: float) -> bool:
    """Wait, unless stdin ends; whether it is still open."""
    return not select.select([0], [], [], seconds)[0] or bool(os.read(0, 4096))


if __name__ == "__main__":
    main()
