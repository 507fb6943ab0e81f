"""What the wire stands and what it costs: a blob over a bad link, updates a second, bytes of an idle month.

blob: an agent fetches 25 MB through a relay that delays what comes down by 0.6 s and loses 2 % of its packets, which
come a round trip later with all that is behind them; the link breaks five times, the broker is killed twice and
remembers nothing, the device once. Reported are the bytes that came a second time, in chunks of 64 KiB a fault, and by
how much more memory an agent takes for it, without faults, than for a blob of three chunks.

throughput: 64 devices with updates of 100 kB, 16 with 4 MB; what one aggregator takes off a mosquitto, journal and sum
included, as a share of what the same broker hands to a subscriber that only counts.

idle: the bytes of an agent that waits, at keepalive 5 s, scaled to a month at 60 s.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import outcome
import watch

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.sim.brokers import free_port, listening, mosquitto
from fedfleet.sim.links import Link
from fedfleet.wire.messages import CHUNK, Blob, Plan
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TOPICS = Topics("bench")
PARTS = ("blob", "throughput", "idle")
DELAY, LOSS, AWAY = 0.6, 0.02, 3.0
FAULTS = ("link", "broker", "link", "device", "link", "broker", "link", "link")
PATIENCE = 900.0
MONTH = 30 * 24 * 3600
PING_SEGMENTS, HEADERS = 3, 52  # a ping, its answer, an acknowledgement; IPv4 and TCP with timestamps


class Mosquitto:
    """A broker that remembers nothing and takes packets of at most 100,000 bytes; can be killed."""

    def __init__(self, folder: Path) -> None:
        self.broker = Broker(port=free_port(), keepalive=10)
        self._folder = folder
        settings = "persistence false\nmax_packet_size 100000\nmax_queued_messages 0\nallow_anonymous true\n"
        (folder / "mosquitto.conf").write_text(f"listener {self.broker.port} 127.0.0.1\n{settings}")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [mosquitto() or "mosquitto", "-c", str(self._folder / "mosquitto.conf")]
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        listening(self.broker, self._process, self._folder / "mosquitto.log")

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()


@contextmanager
def cloud(broker: Broker, folder: Path, program: bytes, weights: int, devices: int) -> Iterator[Aggregator]:
    """An aggregator for one round with `weights` zeros to begin with."""
    rounds = Rounds(total=1, devices=devices, quorum=devices, deadline=PATIENCE)
    start = np.zeros(weights, np.float32)
    journal, bus = Journal(folder / "cloud"), MqttBus(broker, "bench-cloud")
    try:
        federation = Federation(program, start, strategy("fedavg"), Plan(), rounds)
        yield Aggregator(federation, TOPICS, bus, journal, time.monotonic)
    finally:
        bus.close()
        journal.close()


def agent(folder: Path, port: int, keepalive: int) -> subprocess.Popen[bytes]:
    """Start the real agent."""
    settings = f'device = "d1"\nfleet = "bench"\n[broker]\nport = {port}\nkeepalive = {keepalive}\n'
    (folder / "agent.toml").write_text(settings)
    with (folder / "agent.log").open("ab") as log:
        command = [sys.executable, "-m", "fedfleet.edge", "--settings", str(folder / "agent.toml")]
        return subprocess.Popen(command, stdout=log, stderr=log)


def blob(megabytes: float) -> dict[str, float]:
    """A blob over a bad link."""
    content = random.Random(0).randbytes(int(megabytes * 1e6))
    name = Blob.of(content)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        broker = Mosquitto(folder)
        with Link(broker.broker, DELAY, LOSS) as link, cloud(broker.broker, folder, content, 10, 1) as aggregator:
            process = agent(folder, link.port, 10)
            faults, began = list(FAULTS), time.monotonic()
            here = folder / "state" / "blobs" / name.digest
            try:
                while not here.is_file():
                    aggregator.step(0.05)
                    if faults and link.down > len(content) * (len(FAULTS) - len(faults) + 1) / (len(FAULTS) + 2):
                        process = _suffer(faults.pop(0), link, broker, process, folder, aggregator)
                    if time.monotonic() - began > PATIENCE:
                        raise TimeoutError((folder / "agent.log").read_text()[-2000:])
                seconds = time.monotonic() - began
            finally:
                process.kill()
                process.wait()
                broker.kill()
        return {
            "blob_equal": float(Blob.of(here.read_bytes()) == name),
            "blob_seconds": seconds,
            "blob_again_chunks_a_fault": (link.down - len(content)) / CHUNK / len(FAULTS),
            "blob_memory_grew_chunks": (_peak(content) - _peak(content[: 3 * CHUNK])) * 2**20 / CHUNK,
        }


def _peak(content: bytes) -> float:
    """The peak memory, in MiB, of an agent that has fetched `content` over a link without faults."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        broker = Mosquitto(folder)
        try:
            with cloud(broker.broker, folder, content, 10, 1) as aggregator:
                process = agent(folder, broker.broker.port, 10)
                try:
                    while not (folder / "state" / "blobs" / Blob.of(content).digest).is_file():
                        aggregator.step(0.05)
                    return watch.peak_mib(process.pid)
                finally:
                    process.kill()
                    process.wait()
        finally:
            broker.kill()


def _suffer(
    fault: str, link: Link, broker: Mosquitto, process: subprocess.Popen[bytes], folder: Path, aggregator: Aggregator
) -> subprocess.Popen[bytes]:
    """Break something, and mend it 3 s later; returns the agent that runs then."""
    print(f"  {fault} fails at {link.down / 1e6:.1f} MB", flush=True)
    if fault == "link":
        link.cut()
    elif fault == "broker":
        broker.kill()
    else:
        process.send_signal(signal.SIGKILL)
        process.wait()
    end = time.monotonic() + AWAY
    while time.monotonic() < end:
        aggregator.step(0.05)
    if fault == "link":
        link.mend()
    elif fault == "broker":
        broker.start()
    else:
        process = agent(folder, link.port, 10)
    return process


def throughput(size: int, devices: int) -> tuple[float, float]:
    """Updates a second: what an aggregator takes, and what a subscriber gets that only counts."""
    return _rate(size, devices, _aggregated), _rate(size, devices, _counted, "flood")


def _rate(size: int, devices: int, take: Callable[..., float], *how: str) -> float:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        broker = Mosquitto(folder)
        command = [sys.executable, str(Path(__file__).with_name("senders.py"))]
        command += [str(broker.broker.port), str(devices), str(size), place, *how]
        senders = subprocess.Popen(command, stdin=subprocess.PIPE)
        try:
            return devices / take(broker.broker, folder, size, devices, senders)
        finally:
            senders.kill()
            senders.wait()
            broker.kill()


def _aggregated(broker: Broker, folder: Path, size: int, devices: int, senders: subprocess.Popen[bytes]) -> float:
    with cloud(broker, folder, b"program", size // 4, devices) as aggregator:
        while not aggregator.progress()[0]:
            aggregator.step(0.05)
        began = time.monotonic()
        while not aggregator.done:
            aggregator.step(0.05)
        return time.monotonic() - began


def _counted(broker: Broker, folder: Path, size: int, devices: int, senders: subprocess.Popen[bytes]) -> float:
    bus = MqttBus(broker, "counter")
    bus.subscribe(TOPICS.update())
    bus.subscribe(TOPICS.status())
    there: set[str] = set()
    while len(there) < devices:
        there |= {topic for topic, _ in bus.deliveries(0.05)}
    assert senders.stdin is not None
    began, wanted = time.monotonic(), size * devices
    senders.stdin.write(b"go\n")
    senders.stdin.flush()
    while wanted > 0:
        wanted -= sum(len(payload) for topic, payload in bus.deliveries(0.05) if topic.endswith("update"))
    seconds = time.monotonic() - began
    bus.close()
    return seconds


def idle(seconds: float) -> dict[str, float]:
    """The bytes of an agent that waits."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        broker = Mosquitto(folder)
        with Link(broker.broker) as link:
            process = agent(folder, link.port, 5)
            try:
                watch.until(lambda: "is ready" in (folder / "agent.log").read_text(), "the agent connects")
                time.sleep(2.0)
                before = link.up + link.down
                time.sleep(seconds)
                pings = (link.up + link.down - before) / 4
            finally:
                process.kill()
                process.wait()
                broker.kill()
        month = MONTH / 60
        return {
            "idle_mqtt_mb_a_month": month * 4 * pings / (seconds / 5) / 1e6,
            "idle_with_headers_mb_a_month": month * pings / (seconds / 5) * (4 + PING_SEGMENTS * HEADERS) / 1e6,
        }


def measure(wanted: argparse.Namespace) -> dict[str, float]:
    """Everything that was asked for, part by part."""
    found: dict[str, float] = {}
    for part in wanted.only.split(","):
        print(f"{part} ...", flush=True)
        if part == "blob":
            found |= blob(wanted.megabytes)
        elif part == "idle":
            found |= idle(30.0)
        else:
            for label, size, devices in (("100kb", 100_000, 64), ("4mb", 4_000_000, 16)):
                ours, alone = throughput(size, devices)
                found |= {f"updates_{label}_a_second": ours, f"updates_{label}_share_of_broker": ours / alone}
    return found


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)} these alone")
    parser.add_argument("--megabytes", type=float, default=25.0, help="size of the blob (25)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, with versions and method")
    wanted = parser.parse_args()
    if unknown := set(wanted.only.split(",")) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}; known: {', '.join(PARTS)}")
    if mosquitto() is None:
        print("transport: mosquitto is not installed: apt install mosquitto", file=sys.stderr)
        sys.exit(2)
    figures: Mapping[str, float] = measure(wanted)
    outcome.table([["", "figure"], *([key, f"{value:.3g}"] for key, value in figures.items())])
    versions = outcome.versions("paho-mqtt", "numpy")
    outcome.save(wanted.json, {"method": __doc__, "machine": outcome.machine(), "versions": versions, **figures})
    outcome.result(figures)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
