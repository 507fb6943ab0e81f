"""A broker restarts under a thousand clients: how they come back, ours beside plain paho-mqtt as its users run it.

mosquitto is killed, stays away for a while and starts again on the same port. Counted at the broker, in its log: new
TCP connections in each second; at the clients: when each had its CONNACK, on the clock that all processes share. Ours
draw each pause at random (full jitter, at most 4 s at first and 60 s in the end); plain paho doubles from 1 s to 120 s,
all clients alike. Clients live in processes of 250, since paho's own loop knows no file above 1023; each is a thread,
as it would be on its board.

The bars: all of ours back within 60 s, the longest pause there is, and in no second more than half of them. The exit
code is 0 either way; 2 where mosquitto is not installed.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import outcome
from crowd import CROWDS, crowd

from fedfleet.sim import brokers
from fedfleet.wire.settings import Broker

CROWD = 250
WITHIN, SHARE = 60.0, 0.5
OPENED = re.compile(r"^(\d+): New connection from ", re.MULTILINE)


class Storm(NamedTuple):
    """What one kind of client did: seconds from the broker's return to each CONNACK, and its busiest second."""

    kind: str
    back: list[float]
    peak: int
    burst: int


@contextmanager
def mosquitto(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A broker that takes connections; its log goes on in `folder`."""
    settings = folder / "storm.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_type all\n")
    path = brokers.mosquitto()
    assert path is not None
    with (folder / "storm.log").open("ab") as log:
        process = subprocess.Popen([path, "-c", str(settings)], stdout=log, stderr=log)
    try:
        brokers.listening(Broker(port=port), process, folder / "storm.log")
        yield process
    finally:
        process.kill()
        process.wait()


def storm(kind: str, clients: int, away: float, folder: Path) -> Storm:
    """Let the broker restart under `clients` of a kind."""
    folder.mkdir()
    port = brokers.free_port()
    with ExitStack() as stack:
        with mosquitto(folder, port):
            sizes = [min(CROWD, clients - begun) for begun in range(0, clients, CROWD)]
            crowds = [stack.enter_context(_started(kind, size, port, name)) for name, size in enumerate(sizes)]
            for process in crowds:
                _line(process)  # all of it is connected
        time.sleep(away)
        (folder / "storm.log").write_text("")
        with mosquitto(folder, port):
            began = time.monotonic()
            back = [at - began for process in crowds for at in json.loads(_line(process))]
        seconds = Counter(OPENED.findall((folder / "storm.log").read_text(errors="replace")))
    return Storm(kind, sorted(back), max(seconds.values()), burst(back))


def burst(times: list[float], width: float = 0.1) -> int:
    """Return the most of `times` that lie within one `width`."""
    ordered, most, first = sorted(times), 0, 0
    for last, at in enumerate(ordered):
        while at - ordered[first] > width:
            first += 1
        most = max(most, last - first + 1)
    return most


@contextmanager
def _started(kind: str, count: int, port: int, name: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--crowd", kind, str(count), str(port), str(name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a crowd of clients ended early; the lines above say why")
    return line


def rows(storms: list[Storm]) -> list[list[str]]:
    """The table."""
    heading = ["clients", "back after s: half", "nine in ten", "all", "peak a second", "peak in 0.1 s"]
    body = [
        [
            each.kind,
            *(f"{each.back[round(share * (len(each.back) - 1))]:.1f}" for share in (0.5, 0.9, 1.0)),
            str(each.peak),
            str(each.burst),
        ]
        for each in storms
    ]
    return [heading, *body]


def main() -> None:
    """Measure both kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000, help="clients of each kind (default: 1000)")
    parser.add_argument("--away", type=float, default=5.0, help="seconds without a broker (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times there, with versions and method")
    parser.add_argument("--crowd", nargs=4, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.crowd:
        kind, count, port, name = wanted.crowd
        crowd(kind, int(count), int(port), name)
        return
    if wanted.clients < 1 or wanted.away < 0:
        parser.error("--clients must be at least 1, --away at least 0")
    if brokers.mosquitto() is None:
        parser.error("mosquitto is not installed: apt install mosquitto")
    # one file for each client at the broker
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(f"{wanted.clients} clients, a broker that is away for {wanted.away:g} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        storms = [storm(kind, wanted.clients, wanted.away, Path(folder) / kind) for kind in CROWDS]
    ours, theirs = storms
    outcome.table(rows(storms))
    met = ours.back[-1] <= WITHIN and ours.peak <= max(1, SHARE * wanted.clients)
    print(f"bar: all back within {WITHIN:g} s, no second with over {SHARE:.0%} of them: {'met' if met else 'missed'}")
    summary = {
        "clients": wanted.clients,
        "back_s": ours.back[-1],
        "peak_per_s": ours.peak,
        "paho_back_s": theirs.back[-1],
        "paho_peak_per_s": theirs.peak,
        "paho": outcome.versions("paho-mqtt")["paho-mqtt"],
    }
    outcome.save(
        wanted.json,
        {
            "method": __doc__,
            "away": wanted.away,
            "bar": {"within": WITHIN, "share": SHARE, "met": met},
            "machine": outcome.machine(),
            "versions": outcome.versions("paho-mqtt"),
            "storms": [each._asdict() for each in storms],
            "result": summary,
        },
    )
    outcome.result(summary)


if __name__ == "__main__":
    main()
