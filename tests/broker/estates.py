"""A fleet as its operator makes it: by `fedfleet pki init` and `fedfleet broker config`, with devices that are enrolled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

from broker.running import Mosquitto
from commands import run as command

from fedfleet.cloud.identity import authority, folder, signing
from fedfleet.cloud.identity.ledger import Certificate, Ledger
from fedfleet.sim.brokers import free_port
from fedfleet.wire.bus import Will
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

FLEET = "mill"
TOPICS = Topics(FLEET)


class Estate:
    """The authority's folder, the broker's (another one where `apart`), and the broker."""

    def __init__(self, base: Path, *more: str, apart: bool = False) -> None:
        self.pki, self.port, self.socket = base / "pki", free_port(), free_port()
        self.folder = base / "broker" if apart else self.pki
        where = ("--broker", "127.0.0.1,localhost", "--port", str(self.port))
        command("pki", "init", str(self.pki), "--fleet", FLEET, *where)
        out = ("--out", str(self.folder)) if apart else ()
        command("broker", "config", str(self.pki), "--websockets", str(self.socket), *out, *more)
        self.mosquitto = Mosquitto(self.folder)

    def enrol(self, name: str) -> Path:
        """Certify a device, as the desk does, and return its one file."""
        now, key = time.time(), authority.new_key()
        signed = authority.of(self.pki, now).client(name, key.public_key(), now, timedelta(days=1), o=FLEET)
        ledger = Ledger(self.pki)
        with ledger.transaction():
            mark, pem = signing.digest(key.public_key()), signed.pem.decode()
            ledger.certify(Certificate(signed.serial, name, "", "", mark, pem, now, signed.ends))
        ledger.close()
        path = self.pki.parent / f"{name}.pem"
        path.write_bytes(signed.pem + authority.key_pem(key))
        return path

    def broker(self, pem: Path | None = None, *, socket: bool = False, role: str = "cloud") -> Broker:
        """How a device with this file, or one of the cloud's own, reaches the broker."""
        found = folder.link(self.pki, folder.read(self.pki), role)
        found = replace(found, certificate=str(pem), key=str(pem)) if pem else found
        return replace(found, port=self.socket, transport="websockets") if socket else found


@contextmanager
def estate(base: Path, *more: str, apart: bool = False) -> Iterator[Estate]:
    """A fleet whose broker runs."""
    found = Estate(base, *more, apart=apart)
    found.mosquitto.start()
    try:
        yield found
    finally:
        found.mosquitto.kill()


class Talker:
    """A device that never stops talking: it says 0, 1, 2, ... under `want`, in a thread of its own."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name, self.said = name, 0
        self.bus = MqttBus(broker, name, Will(TOPICS.status(name), b"there", b"gone"), jitter=lambda: 0.02)
        self._over = Event()
        self._thread = Thread(target=self._talk)
        self._thread.start()

    def _talk(self) -> None:
        while not self._over.wait(0.01):
            self.bus.publish(TOPICS.want(self.name), b"%d" % self.said)
            self.said += 1

    def end(self) -> None:
        """Be silent, and go."""
        self._over.set()
        self._thread.join()
        self.bus.close()
