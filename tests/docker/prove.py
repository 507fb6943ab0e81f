"""A federation in containers: it learns, one is cut off and comes back, one runs out of memory and comes back, all goes.

    make test-docker                    on the docker that is there; nothing is installed
    CI=true make test-docker            as root on Debian: with an engine and base images of its own, where there is none

Exit code 0 where all of it holds, 1 where something does not, 2 with one line where this machine lacks something.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from docker import engine, whole
from rich.console import Console

from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.settings import Rounds
from fedfleet.sim.docker.client import BUILD, ROOT, docker
from fedfleet.sim.live import Screen
from fedfleet.sim.record import Happened, Run, read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import FedfleetError
from fedfleet.wire.messages import Plan

IMAGES = {
    "fedfleet-agent": "edge/Dockerfile",
    "fedfleet-broker": "cloud/broker.Dockerfile",
    "fedfleet-cloud": "cloud/Dockerfile",
}
WANTED = Simulation(
    devices=4,
    engine="docker",
    rounds=Rounds(total=3000, deadline=60.0),
    plan=Plan(learning_rate=0.02, momentum=0.9, epochs=2),
    baselines=False,
    mishaps=("disconnect 1 for 15s at 3", "memory 8m on 1 for 8s at 30s"),
)
ENOUGH = 5  # rounds with all devices, once nothing is wrong any more
ACCURACY = 0.95
WITHIN = "import importlib.util as u, os; print(os.getuid(), u.find_spec('tensorflow') is not None)"


class Failed(Exception):
    """Something does not hold, in one line."""


def holds(what: str, true: bool) -> None:
    """Say that it holds, or end."""
    if not true:
        raise Failed(what)
    print(f"  {what}", flush=True)


def build() -> dict[str, float]:
    """Build all images, and return their sizes in MB."""
    for tag, file in IMAGES.items():
        docker("build", "--quiet", "--file", str(ROOT / file), "--tag", tag, str(ROOT), seconds=BUILD)
    return {tag: int(docker("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6 for tag in IMAGES}


def inside(image: str) -> str:
    """What a container of `image` is: its user, and whether it has TensorFlow."""
    hardened = ("--rm", "--read-only", "--cap-drop", "ALL", "--network", "none", "--entrypoint", "python3")
    return docker("run", *hardened, image, "-c", WITHIN)


@contextmanager
def killed_for_memory() -> Iterator[list[str]]:
    """Give a list that names, once the block is over, the containers in which Linux killed something for memory."""
    names = list[str]()
    command = ["docker", "events", "--filter", "event=oom", "--format", "{{.Actor.Attributes.name}}"]
    with tempfile.TemporaryFile() as told, subprocess.Popen(command, stdout=told) as events:
        try:
            yield names
        finally:
            events.terminate()
            events.wait()
            told.seek(0)
            names += sorted(set(told.read().decode().split()))


def came_back(found: Run, begun: Happened, over: Happened) -> tuple[bool, bool]:
    """Whether rounds went on without one device while it was hurt, and whether all have counted since."""
    hurt = [record.reported for record in found.rounds if begun.round <= record.round <= over.round]
    since = [record.reported for record in found.rounds if record.round > over.round]
    return 3 in hurt, 4 in since


class Until(Screen):
    """Ends a run, as Ctrl-C does, once all has gone wrong and been well again for some rounds."""

    def __init__(self, *arguments: Any) -> None:
        """As a screen is made."""
        super().__init__(*arguments)
        self._over = self._whole = 0

    def say(self, text: str) -> None:
        """Count what is over."""
        super().say(text)
        self._over += ", over: " in text

    def round(self, record: RoundRecord) -> None:
        """Count rounds with all devices since."""
        super().round(record)
        self._whole += self._over == len(WANTED.mishaps) and record.reported == WANTED.devices
        if self._whole == ENOUGH:
            raise KeyboardInterrupt


def federation(out: Path) -> tuple[Run, list[str]]:
    """Run it, and return the run and the containers that ran out of memory."""
    with killed_for_memory() as killed, suppress(KeyboardInterrupt):
        simulate(WANTED, out, Console(file=sys.stderr), Until)
    (folder,) = out.iterdir()
    return read(folder), killed


def same(out: Path) -> tuple[str, str]:
    """Return the weights that two rounds of two devices come to: in containers, and all in this process."""
    quiet = replace(WANTED, devices=2, rounds=Rounds(total=2), mishaps=())
    runs = (
        simulate(replace(quiet, engine=name), out / name, Console(file=sys.stderr)) for name in ("docker", "loopback")
    )
    contained, alone = (read(run).rounds[-1].weights for run in runs)
    return contained, alone


def left(project: str) -> list[str]:
    """What of a project is still there: containers, volumes, networks."""
    label = ("--filter", f"name={project}", "--quiet")
    lists = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
    return [line for command in lists for line in docker(*command, *label).splitlines()]


def prove(folder: Path) -> dict[str, object]:
    """Hold everything against what it promises; returns figures. Raises Failed."""
    began = time.monotonic()
    sizes = build()
    built = time.monotonic() - began
    print("images:", ", ".join(f"{tag} {size:.0f} MB" for tag, size in sizes.items()), flush=True)
    holds("the agent's image runs as user 10001, and has no TensorFlow", inside("fedfleet-agent") == "10001 False")
    holds("the cloud's image runs as user 10001, and has TensorFlow", inside("fedfleet-cloud") == "10001 True")
    mine, other = same(folder / "same")
    holds(f"two rounds come to the same weights as without containers, to the bit: {mine[:12]}", mine == other)
    found, killed = federation(folder / "runs")
    assert found.outcome is not None
    score = found.outcome.federation or 0.0
    holds(f"four containers learned to {100 * score:.2f} %", score >= ACCURACY)
    cut, healed, starved, fed = sorted(found.happened, key=lambda what: what.seconds)
    for begun, over, what in ((cut, healed, "cut off"), (starved, fed, "out of memory")):
        without, again = came_back(found, begun, over)
        holds(f"{begun.text}; rounds went on without it", without)
        holds(f"{over.text}; the one that was {what} counts again", again)
    holds(f"Linux killed for memory in {', '.join(killed)} alone", len(killed) == 1)
    holds("nothing is left of it", left(f"fedfleet-{found.facts.id}") == [])
    enrolled, ails = whole.federation(folder / "whole")
    holds(f"two containers enrolled, and the aggregator's counted both: {enrolled}", "2 of 2 reported" in enrolled)
    holds(f"one that was revoked is shut out: {ails}", "no connection to port" in ails)
    holds("nothing is left of that either", left(whole.PROJECT) == [])
    return {
        "accuracy": f"{score:.4f}",
        "rounds": len(found.rounds),
        "build_s": f"{built:.0f}",
        **{f"{tag.removeprefix('fedfleet-')}_mb": f"{size:.0f}" for tag, size in sizes.items()},
    }


def main() -> int:
    """Prove it."""
    began = time.monotonic()
    try:
        with engine.engine() as (environment, name), tempfile.TemporaryDirectory() as folder:
            os.environ.update(environment)
            print(f"test-docker: {name}, ready after {time.monotonic() - began:.0f} s", flush=True)
            figures = prove(Path(folder))
    except engine.Missing as missing:
        print(f"test-docker cannot run: {missing}")
        return 2
    except (Failed, FedfleetError) as error:
        print(f"test-docker failed: {error}")
        return 1
    print("result", *(f"{key}={value}" for key, value in figures.items()), f"seconds={time.monotonic() - began:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
