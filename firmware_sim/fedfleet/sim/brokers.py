"""A broker for one run: mosquitto if it is on PATH, else amqtt in this process, or one that someone else runs."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from amqtt.broker import Broker as Amqtt
from amqtt.errors import BrokerError

from fedfleet.cloud.broker import server
from fedfleet.wire.errors import BusDown, SettingsError
from fedfleet.wire.settings import Broker, parse_broker

START = 10.0


class Running(NamedTuple):
    """Where a broker listens, and what it is, for people."""

    broker: Broker
    name: str


@contextmanager
def running(wanted: str, folder: Path) -> Iterator[Running]:
    """Run the broker `wanted` while the block lasts: auto, mosquitto[:PORT], amqtt[:PORT], or HOST[:PORT] of another.

    Raises BusDown where it does not come up; its log is in `folder`.
    """
    kind, _, port = wanted.partition(":")
    kind = ("mosquitto" if mosquitto() else "amqtt") if kind == "auto" else kind
    if kind not in ("mosquitto", "amqtt"):
        broker = parse_broker(wanted)
        yield Running(broker, f"{broker.host}:{broker.port}")
        return
    # amqtt knows MQTT 3.1.1 only, and leaves a client of version 5 that has a last will without an answer.
    broker = Broker(port=_port(port), mqtt=5 if kind == "mosquitto" else 3)
    if port:
        _free(broker)
    with _mosquitto(broker, folder) if kind == "mosquitto" else _amqtt(broker):
        yield Running(broker, f"{kind} on port {broker.port}")


def mosquitto() -> str | None:
    """Return the path of the mosquitto that is installed, if any."""
    return server.installed()


def _port(text: str) -> int:
    """Return the port asked for, or one that is free."""
    if text:
        return parse_broker(f"127.0.0.1:{text}").port
    return free_port()


def free_port() -> int:
    """Return a port that nobody listens on."""
    return server.free_port()


def _free(broker: Broker) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((broker.host, broker.port))
        except OSError as error:
            raise SettingsError(
                f"port {broker.port} cannot be had ({error.strerror}); name another, or leave it out for a free one"
            ) from None


@contextmanager
def _mosquitto(broker: Broker, folder: Path) -> Iterator[None]:
    path = mosquitto()
    if path is None:
        raise SettingsError("mosquitto is not installed: apt install mosquitto, or ask for the broker amqtt")
    settings = folder / "mosquitto.conf"
    # The queue is unbounded because mosquitto acknowledges what it drops, and this broker serves one run only.
    settings.write_text(
        f"listener {broker.port} {broker.host}\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"
    )
    with (folder / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen(
            [path, "-c", str(settings)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        listening(broker, process, folder / "mosquitto.log")
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listening(broker: Broker, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the broker takes connections; raises BusDown with its last words when it does not."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((broker.host, broker.port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    said = log.read_text(errors="replace").strip().splitlines()
    raise BusDown(f"mosquitto did not start: {said[-1] if said else 'it said nothing'}")


@contextmanager
def _amqtt(broker: Broker) -> Iterator[None]:
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    logging.getLogger("transitions").setLevel(logging.ERROR)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="amqtt", daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(_serve(broker), loop).result(START)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.shutdown(), loop).result(START)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START)
        loop.close()


async def _serve(broker: Broker) -> Amqtt:
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listeners = {"default": {"type": "tcp", "bind": f"{broker.host}:{broker.port}"}}
    server = Amqtt({"listeners": listeners, "plugins": plugins})
    try:
        await server.start()
    except BrokerError as error:
        raise BusDown(f"amqtt did not start: {error}") from None
    return server
