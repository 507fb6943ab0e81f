"""Real brokers for tests: mosquitto where it is installed, and amqtt, which comes with the simulator.

And one that does what a test says, byte by byte, for what no real broker does on demand.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fedfleet.sim import brokers
from fedfleet.wire.settings import Broker

KINDS = (["mosquitto"] if brokers.mosquitto() else []) + ["amqtt"]
needs_mosquitto = pytest.mark.skipif("mosquitto" not in KINDS, reason="mosquitto is not installed")
OPEN = "allow_anonymous true"


def free_port() -> int:
    """Return a port that nobody listens on."""
    return brokers.free_port()


@contextmanager
def mosquitto(folder: Path, port: int, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run mosquitto on `port` with more lines in its settings; killed at the end, whatever state it is in."""
    path = brokers.mosquitto()
    assert path is not None
    # "user": started as root it would become a user that cannot read what pytest keeps
    lines = ["user root", f"listener {port} 127.0.0.1", *settings]
    (folder / f"{port}.conf").write_text("\n".join([*lines, ""]))
    with (folder / f"{port}.log").open("ab") as log:
        process = subprocess.Popen([path, "-v", "-c", str(folder / f"{port}.conf")], stdout=log, stderr=log)
    try:
        for line in lines:
            if line.startswith("listener "):
                brokers.listening(Broker(port=int(line.split()[1])), process, folder / f"{port}.log")
        yield process
    finally:
        process.kill()
        process.wait()


class Peer:
    """The broker's end of one connection, for a script to read from and write to."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link

    def packet(self) -> tuple[int, bytes]:
        """Return type and rest of the next packet; raises ConnectionError at the end."""
        kind, size = self._exactly(1)[0], 0
        for shift in range(0, 28, 7):
            digit = self._exactly(1)[0]
            size |= (digit & 127) << shift
            if digit < 128:
                break
        return kind >> 4, self._exactly(size)

    def send(self, kind: int, rest: bytes) -> None:
        """Send one packet of less than 2 MiB; `kind` is its whole first byte."""
        size, digits = len(rest), b""
        while size > 127:
            digits, size = digits + bytes([size & 127 | 128]), size >> 7
        self.link.sendall(bytes([kind]) + digits + bytes([size]) + rest)

    def welcome(self, properties: bytes = b"", *, reason: int = 0) -> bytes:
        """Read CONNECT and answer it, as version 5; returns what came."""
        kind, greeting = self.packet()
        assert kind == 1
        self.send(0x20, bytes([0, reason, len(properties)]) + properties)
        return greeting

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self.link.recv(count - len(found))
            if not more:
                raise ConnectionError
            found += more
        return found


@contextmanager
def scripted(*scripts: Callable[[Peer], None]) -> Iterator[Broker]:
    """Play one script for each connection in turn, the last one for all that follow."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            number = 0
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return  # the test is over
                with link, suppress(OSError):
                    link.settimeout(20)
                    scripts[min(number, len(scripts) - 1)](Peer(link))
                number += 1

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Broker(port=server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(20)
