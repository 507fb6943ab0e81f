"""An aggregator killed everywhere in its work, over a real mosquitto: `python -m faults.cloud_points [RUNS]`.

For each of a few federations that differ in what an aggregator keeps: it first runs undisturbed and its points are
listed (`faults.killed_cloud`). Then it runs again, and in every section of its work is killed at one of them and
started again, as a service manager would, while the devices, which are real agents, live on; the points are spread
evenly over those of a round. What comes of it must be the same to the bit: the model, each round's contributions,
scores and weights, what lies in the folder, and nothing half-written; and the broker must retain nothing. With RUNS
more than one all are done so often, with other points each time: about 10 of them meet every point of a round.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faults.kill_points import FEATURES, compiled, process

from fedfleet.edge.data import Store
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.examples import Examples
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

FLEET = "killed"
DEVICES = 3
PATIENCE = 300.0  # seconds that a federation may take, with all its kills
ROUNDS = 14
KILLED = -9
Kills = dict[str, int]


class Case(NamedTuple):
    """A federation; `scored` on data of the cloud's own."""

    strategy: str
    codec: str = "float32"
    downlink: str = ""
    scored: bool = False


CASES = {
    "the server has moments, models have scores": Case("fedadam", scored=True),
    "all updates of a round are spilled to the disk": Case("median", codec="int8", downlink="int8"),
    "devices keep what a codec lost, the way down is a patch": Case("fedavg", "topk:0.1+int4+zlib", "int8"),
}


class Life(NamedTuple):
    """What came of a federation: the points that were passed, at which it was killed, and what must be the same."""

    points: list[str]
    kills: list[str]
    result: dict[str, object]

    @property
    def sections(self) -> dict[str, int]:
        """How many points each section of the work has."""
        return dict(Counter(point.partition(":")[0] for point in self.points))


def live(program: Compiled, case: Case, folder: Path, kills: Kills, rounds: int = ROUNDS) -> Life:
    """Run a federation over a broker of its own whose aggregator is killed as `kills` says; raises TimeoutError."""
    folder.mkdir()
    program.save(folder / "model")
    with running("mosquitto", folder) as (broker, _), agents(folder, broker):
        settings = written(folder, case, broker, rounds)
        met, end = list[str](), time.monotonic() + PATIENCE
        while (code := _serve(folder, settings, len(met) + 1, kills, end - time.monotonic())) == KILLED:
            met.append((folder / "trace").read_text().splitlines()[-1])
            kills = {section: at for section, at in kills.items() if section != met[-1].partition(":")[0]}
        assert code == 0, (folder / "log").read_text()[-800:]
        left = retained(broker)
    return Life((folder / "trace").read_text().splitlines(), met, {**outcome(folder), "retained": left})


def _serve(folder: Path, settings: Path, life: int, kills: Kills, patience: float) -> int:
    """Let the aggregator live once; returns how it ended."""
    aggregator = process(
        folder / "log", "faults.killed_cloud", str(folder / "trace"), str(life), json.dumps(kills), str(settings)
    )
    try:
        return aggregator.wait(max(patience, 0.0))
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{kills}: {(folder / 'log').read_text()[-800:]}") from None
    finally:
        aggregator.kill()
        aggregator.wait()


@contextmanager
def agents(folder: Path, broker: Broker) -> Iterator[None]:
    """Let the devices live while the block lasts; none may end before."""
    started = []
    for number in range(DEVICES):
        home = folder / f"d{number}"
        Store.open(home / "state" / "examples").append(examples(number, 10 * number + 10))
        text = f'device = "d{number}"\nfleet = "{FLEET}"\n'
        (home / "agent.toml").write_text(f'{text}[broker]\nhost = "{broker.host}"\nport = {broker.port}\n')
        started.append(process(home / "log", "fedfleet.edge", "--settings", str(home / "agent.toml")))
    try:
        yield
        assert [agent.poll() for agent in started] == [None] * DEVICES, "a device has ended"
    finally:
        for agent in started:
            agent.terminate()
        for agent in started:
            agent.wait(20)


def examples(seed: int, count: int) -> Examples:
    """Examples that fit the program."""
    chance = np.random.default_rng(seed)
    return Examples(
        chance.normal(size=(count, FEATURES)).astype(np.float32), chance.integers(0, 3, count).astype(np.int32)
    )


def written(folder: Path, case: Case, broker: Broker, rounds: int) -> Path:
    """The aggregator's settings."""
    held = examples(99, 40)
    np.savez(folder / "held.npz", x=held.x, y=held.y)
    lines = [
        f'fleet = "{FLEET}"\nmodel = "model"\nstate = "cloud"\nstrategy = "{case.strategy}"\nseed = 7',
        f'[broker]\nhost = "{broker.host}"\nport = {broker.port}',
        f'[rounds]\ntotal = {rounds}\ndevices = {DEVICES}\nquorum = {DEVICES}\ndownlink = "{case.downlink}"',
        f'[plan]\nlearning_rate = 0.05\ncodec = "{case.codec}"',
        '[evaluation]\ndata = "npz:held.npz"' if case.scored else "",
    ]
    (folder / "settings.toml").write_text("\n".join(lines))
    return folder / "settings.toml"


def outcome(folder: Path) -> dict[str, object]:
    """What lies in the aggregator's folder, and what half-written files lie anywhere."""
    cloud = folder / "cloud"
    with closing(sqlite3.connect(cloud / "journal.sqlite")) as database:
        rounds = database.execute("SELECT round, state, made, weights, moments, scores FROM rounds ORDER BY round")
        counted = database.execute("SELECT round, device, examples, delta FROM updates ORDER BY round, device")
        return {
            "model": hashlib.sha256((cloud / "model" / "weights.bin").read_bytes()).hexdigest(),
            "rounds": rounds.fetchall(),
            "counted": counted.fetchall(),
            "files": sorted(path.relative_to(cloud).as_posix() for path in cloud.rglob("*") if path.is_file()),
            "half-written": sorted(path.name for path in folder.rglob("*") if path.suffix in (".part", ".tmp")),
        }


def retained(broker: Broker) -> list[str]:
    """What the broker holds of a federation that is over, beside its devices' statuses."""
    topics = Topics(FLEET)
    bus, found, end = MqttBus(broker, "curious"), list[str](), topics.receipt("curious")
    for pattern in (topics.task, topics.manifest("+"), topics.chunk("+"), end):
        bus.subscribe(pattern)
    bus.publish(end, b"after all that is retained")
    while end not in found:
        found += [topic for topic, _ in bus.deliveries(PATIENCE)]
    bus.close()
    return found[: found.index(end)]


def schedule(sections: Kills, rounds: int, seed: int) -> Kills:
    """One kill in each section, spread over the points of a round, and one in every third life that follows."""
    chance, places = random.Random(seed), list(range(rounds))
    chance.shuffle(places)
    kills = {section: chance.randint(1, sections[section]) for section in ("start", "end")}
    for number, place in enumerate(places, 1):
        kills[f"round {number}"] = 1 + int((place + chance.random()) / rounds * sections[f"round {number}"])
    return kills | {f"life {life}": chance.randint(1, sections["start"]) for life in range(3, rounds, 3)}


def table(
    program: Compiled, case: Case, folder: Path, seeds: range, rounds: int = ROUNDS
) -> tuple[Life, list[tuple[Kills, Life]]]:
    """Live once undisturbed, then once for each of `seeds` with the kills that it chooses."""
    folder.mkdir()
    whole = live(program, case, folder / "whole", {}, rounds)
    plans = [schedule(whole.sections, rounds, seed) for seed in seeds]
    return whole, [
        (kills, live(program, case, folder / str(number), kills, rounds)) for number, kills in enumerate(plans)
    ]


def main() -> int:
    """Print the table."""
    began, bad, total, runs = time.monotonic(), 0, 0, int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        program = compiled()
        print("a line is a federation whose aggregator was killed by SIGKILL at these points and started again")
        jobs = [
            pool.submit(table, program, case, Path(name) / str(number), range(100 * number, 100 * number + runs))
            for number, case in enumerate(CASES.values())
        ]
        for title, job in zip(CASES, jobs):
            whole, lives = job.result()
            print(f"{title}: {len(whole.points)} points")
            for kills, found in lives:
                wrong = [key for key, value in whole.result.items() if found.result[key] != value]
                bad, total = bad + bool(wrong), total + len(found.kills)
                print(f"{'BAD' if wrong else 'ok '}  killed at {len(found.kills)} points of {len(kills)}")
                print("".join(f"     {point}\n" for point in found.kills), end="")
                for key in wrong:
                    print(f"     {key}: {found.result[key]}\n     not {whole.result[key]}")
    print(f"result kills={total} bad={bad} seconds={time.monotonic() - began:.0f}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
