"""A device killed at every point of its work, over a real mosquitto: `python -m faults.kill_points [POINT ...]`.

First the agent lives undisturbed and its points are listed. Then, for each point, a federation of its own in which the
agent is killed there and started again: every round must count its contribution once, the final model must be the same
to the bit, and nothing half-written may be left. Exit code 0 where all hold, else 1.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.data import Store
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

FEATURES = 300
FLEET = "killed"
PATIENCE = 120.0
ROOT = Path(__file__).parents[2]
ROUNDS = Rounds(total=2, devices=1, deadline=600.0)


class Life(NamedTuple):
    """What came of a federation: the points that the agent passed before it was killed, and what must be the same."""

    points: list[str]
    digest: str
    rounds: list[tuple[str, int, int]]
    rest: list[str]

    @property
    def result(self) -> tuple[str, list[tuple[str, int, int]], list[str]]:
        """What may not depend on any kill."""
        return self.digest, self.rounds, self.rest


def compiled() -> Compiled:
    """A program whose weights and update take two chunks."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from fedfleet.models import compiler, zoo

    return compiler.compile(zoo.tabular(FEATURES, 3), "sparse_categorical_crossentropy", batch=8)


def live(program: Compiled, folder: Path, at: int) -> Life:
    """Run a federation over a broker of its own; see `_live`."""
    folder.mkdir()
    with running("mosquitto", folder) as (broker, _):
        return _live(program, broker, folder, at)


def _live(program: Compiled, broker: Broker, folder: Path, at: int) -> Life:
    """Run a federation whose only device is killed at point `at` and started again; 0 means never killed."""
    random = np.random.default_rng(5)
    x = random.normal(size=(20, FEATURES)).astype(np.float32)
    Store.open(folder / "state" / "examples").append(Examples(x, random.integers(0, 3, 20).astype(np.int32)))
    settings = folder / "agent.toml"
    settings.write_text(f'device = "d1"\nfleet = "{FLEET}"\n[broker]\nhost = "{broker.host}"\nport = {broker.port}\n')
    federation = Federation(program.program, program.shared, strategy("fedavg"), Plan(learning_rate=0.05), ROUNDS, 7)
    records: list[RoundRecord] = []
    journal, bus = Journal(folder / "cloud"), MqttBus(broker, f"{FLEET}-cloud")
    agent = first = start(folder, settings, at)
    try:
        cloud = Aggregator(federation, Topics(FLEET), bus, journal, time.monotonic, report=records.append)
        end = time.monotonic() + PATIENCE
        while not cloud.done:
            cloud.step(0.05)
            if agent.poll() is not None and not cloud.done:
                agent = start(folder, settings, 0)
            if time.monotonic() > end:
                raise TimeoutError(f"point {at}: {cloud.waiting()}; {(folder / 'agent.log').read_text()[-500:]}")
        cloud.retire()
        if agent is first:
            settled(folder, agent)
    finally:
        agent.terminate()
        agent.wait(20)
        bus.close()
        journal.close()
    digest = hashlib.sha256(cloud.weights.astype("<f4").tobytes()).hexdigest()
    rounds = [(record.state, record.reported, record.examples) for record in records]
    rest = sorted(path.name for path in (folder / "state").rglob("*") if path.suffix in (".part", ".tmp"))
    return Life((folder / "trace").read_text().splitlines(), digest, rounds, rest)


def settled(folder: Path, agent: subprocess.Popen[bytes]) -> None:
    """Wait until the last receipt has come, or the agent has been killed over it.

    Only for one in its first life: who was started again may have missed the receipt, and keeps its update until a
    newer task, which does not come when the rounds are over.
    """
    end = time.monotonic() + PATIENCE
    while any((folder / "state" / "spool").iterdir()) and agent.poll() is None:
        time.sleep(0.02)
        assert time.monotonic() < end, "the last receipt has not come"


def start(folder: Path, settings: Path, at: int) -> subprocess.Popen[bytes]:
    """Start the agent; only its first life is traced."""
    trace = folder / ("trace" if not (folder / "trace").exists() else "trace2")
    return process(folder / "agent.log", "faults.killed", str(trace), str(at), "--settings", str(settings))


def process(log: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `python -m module` where it finds the rooms and the tests; what it says is added to `log`."""
    rooms = [str(ROOT / room) for room in ("edge", "tests", "models", "cloud", "firmware_sim")]
    with log.open("ab") as said:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": ":".join(rooms)})


def table(program: Compiled, folder: Path, chosen: Iterable[int]) -> tuple[Life, dict[int, Life]]:
    """Live once undisturbed, then once for each of the points `chosen`, all where there are none."""

    def one(at: int) -> Life:
        return live(program, folder / str(at), at)

    whole = one(0)
    wanted = list(chosen) or list(range(1, len(whole.points) + 1))
    with ThreadPoolExecutor(2) as pool:
        return whole, dict(zip(wanted, pool.map(one, wanted)))


def main() -> int:
    """Print the table."""
    began, bad = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name:
        print("a line is a point at which the agent was killed by SIGKILL and started again")
        whole, lives = table(compiled(), Path(name), map(int, sys.argv[1:]))
        for at, found in lives.items():
            good = found.result == whole.result
            bad += not good
            where = found.points[at - 1] if len(found.points) >= at else "not reached"
            print(f"{at:4d}  {'ok ' if good else 'BAD'}  {where}" + ("" if good else f"  {found.result}"))
    print(f"result points={len(lives)} bad={bad} seconds={time.monotonic() - began:.0f} digest={whole.digest[:12]}")
    return 1 if bad or whole.rest else 0


if __name__ == "__main__":
    sys.exit(main())
