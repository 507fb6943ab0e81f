"""Updates over the air as a board has them: its whole bundle, under a real systemd, in its whole sandbox."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import systemd
from brokers import needs_mosquitto
from ota.boards import describe, wheel
from ota.owners import Owner
from systemd import Machine

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.bundle.boards import Board
from fedfleet.cloud.bundle.make import make
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.releases.published import Published, publish
from fedfleet.cloud.releases.serving import Serving
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan, Status
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.release import outcome
from fedfleet.wire.topics import Topics

UNIT = "fedfleet-agent.service"
SLOTS = "/var/lib/fedfleet/slots"
pytestmark = [pytest.mark.skipif(bool(systemd.lacking()), reason=systemd.lacking()), needs_mosquitto]
SETTINGS = """
device = "d1"
fleet = "mill"
state = "/var/lib/fedfleet/state"
[release]
root = "root.json"
[broker]
port = {port}
"""
SHORT = "[Service]\nWatchdogSec=4\nTimeoutStartSec=4\nRestartSec=1"
HANG = b"import time\nwhile True:\n    time.sleep(60)\n"


def until(cloud: Aggregator, machine: Machine, holds: Callable[[Status], bool]) -> Status:
    """Step until the board's last word is such."""
    end = time.monotonic() + 120
    while not holds(found := cloud.presence.statuses.get("d1", Status("lost", 0))):
        cloud.step(0.1)
        assert time.monotonic() < end, f"{found}\n{machine.said('journalctl', '-q', '-u', UNIT)}"
    return found


def hanging(folder: Path, version: str, like: Path) -> Path:
    """A bundle whose agent starts and does nothing, its other wheels those of another bundle."""
    shutil.copytree(like, folder)
    (agent,) = (folder / "wheels").glob("fedfleet_agent-*.whl")
    agent.unlink()
    wheel(folder / "wheels" / f"fedfleet_agent-{version}-py3-none-any.whl", {"fedfleet/edge/__main__.py": HANG})
    return describe(folder, version)


def test_a_board_updates_itself_and_its_watchdog_takes_it_back_from_a_version_that_hangs(
    tmp_path: Path, here: Board, bundle: Path, small: Compiled, examples: Examples
) -> None:
    owner = Owner(tmp_path / "owner")
    make(here, tmp_path / "2.0.0", version="2.0.0")
    owner.release(tmp_path / "2.0.0")
    owner.release(hanging(tmp_path / "3.0.0", "3.0.0", bundle))
    shutil.copytree(bundle, tmp_path / "fedfleet")
    (tmp_path / "fedfleet" / "root.json").write_bytes(owner.anchor())
    rounds = Rounds(total=1000, deadline=600.0)
    federation = Federation(small.program, small.weights, strategy("fedavg"), Plan(learning_rate=0.01), rounds)
    with running("mosquitto", tmp_path) as (broker, _), systemd.booted(tmp_path) as machine:
        (tmp_path / "fedfleet" / "agent.toml").write_text(SETTINGS.format(port=broker.port))
        machine.said("mkdir", "-p", f"/run/systemd/system/{UNIT}.d")
        machine.said("sh", "-c", 'printf "%s\n" "$1" > "$0"', f"/run/systemd/system/{UNIT}.d/short.conf", SHORT)
        machine.said("sh", f"{tmp_path}/fedfleet/install.sh")
        first = machine.said("readlink", f"{SLOTS}/current")
        import_examples(machine, tmp_path, examples)
        bus, topics = MqttBus(broker, "mill-cloud"), Topics("mill")
        serving = Serving(owner.repo, bus, topics, time.monotonic)
        cloud = Aggregator(federation, topics, bus, Journal(tmp_path / "cloud"), time.monotonic, releases=serving)
        until(cloud, machine, lambda status: status.version == first)
        publish(owner.repo, Published("2.0.0"))
        until(cloud, machine, lambda status: status.release.startswith("2.0.0 good"))
        assert machine.said("readlink", f"{SLOTS}/previous") == first
        numpy = "site/numpy/__init__.py"
        if machine.run("test", "-e", f"{SLOTS}/2.0.0/{numpy}").returncode == 0:  # linked, not fetched
            assert machine.said("stat", "-c", "%h", f"{SLOTS}/2.0.0/{numpy}") == "2"
        publish(owner.repo, Published("3.0.0"))
        found = until(cloud, machine, lambda status: outcome(status.release)[:2] == ("3.0.0", "back"))
        assert found.version == machine.said("readlink", f"{SLOTS}/current") == "2.0.0"
        assert int(machine.shows("NRestarts")) >= 5
        number = cloud.progress()[0]
        until(cloud, machine, lambda _: cloud.progress()[0] >= number + 2)
        bus.close()


def import_examples(machine: Machine, folder: Path, examples: Examples) -> None:
    np.savez(folder / "data.npz", x=examples.x, y=examples.y)
    (folder / "data.npz").chmod(0o644)
    machine.said("cp", f"{folder}/data.npz", "/tmp/data.npz")
    machine.said("runuser", "-u", "fedfleet", "--", "/usr/lib/fedfleet/launch", "import", "/tmp/data.npz")
