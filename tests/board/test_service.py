"""The service as a board has it: installed from its bundle, under a real systemd, in its whole sandbox."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import systemd
from brokers import needs_mosquitto
from processes import until
from systemd import Machine

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation, RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.edge.limits import half
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.errors import FrameError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import Plan, Status, decode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

TOPICS = Topics("mill")
UNIT = "fedfleet-agent.service"
pytestmark = [pytest.mark.skipif(bool(systemd.lacking()), reason=systemd.lacking()), needs_mosquitto]
SETTINGS = """
device = "d1"
fleet = "mill"
state = "/var/lib/fedfleet/state"
[broker]
port = {port}
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running("mosquitto", tmp_path) as (found, _):
        yield found


@pytest.fixture
def board(tmp_path: Path, bundle: Path, broker: Broker) -> Iterator[Machine]:
    """A board whose bundle lies in the shared folder, installed and met by its broker."""
    with installed(tmp_path, bundle, broker) as machine:
        yield machine


@contextmanager
def installed(tmp_path: Path, bundle: Path, broker: Broker) -> Iterator[Machine]:
    shutil.copytree(bundle, tmp_path / "fedfleet")
    (tmp_path / "fedfleet" / "agent.toml").write_text(SETTINGS.format(port=broker.port))
    with systemd.booted(tmp_path) as machine:
        assert machine.said("sh", f"{tmp_path}/fedfleet/install.sh").endswith("is installed")
        assert until(lambda: machine.shows("ActiveState") == "active", 30), machine.said("journalctl", "-u", UNIT)
        yield machine


def status_of(process: str, machine: Machine) -> dict[str, str]:
    """What the kernel says of a process of the machine."""
    lines = machine.said("cat", f"/proc/{process}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def worker(machine: Machine) -> str:
    return machine.run("pgrep", "-f", "fedfleet.edge.worker").stdout.strip()


def trains(cloud: Aggregator, machine: Machine) -> str:
    """Step until the board trains; return its training process."""
    end = time.monotonic() + 60
    while not (found := worker(machine)) and time.monotonic() < end:
        cloud.step(0.1)
    return found


def federation(small: Compiled, steps: int | None = None) -> Federation:
    plan = Plan(epochs=2, learning_rate=0.01, **({"steps": steps} if steps else {}))
    return Federation(small.program, small.weights, strategy("fedavg"), plan, Rounds(total=1, deadline=600.0))


def import_examples(machine: Machine, folder: Path, examples: Examples) -> str:
    np.savez(folder / "data.npz", x=examples.x, y=examples.y)
    (folder / "data.npz").chmod(0o644)
    machine.said("cp", f"{folder}/data.npz", "/tmp/data.npz")
    return machine.said("runuser", "-u", "fedfleet", "--", "/usr/lib/fedfleet/launch", "import", "/tmp/data.npz")


@pytest.mark.parametrize("runtime", ["bundle", "bundle_of_litert"])
def test_it_trains_a_round_in_its_sandbox(
    tmp_path: Path, request: pytest.FixtureRequest, runtime: str, broker: Broker, small: Compiled, examples: Examples
) -> None:
    with installed(tmp_path, request.getfixturevalue(runtime), broker) as board:
        trains_a_round(tmp_path, board, broker, small, examples)


def trains_a_round(tmp_path: Path, board: Machine, broker: Broker, small: Compiled, examples: Examples) -> None:
    assert import_examples(board, tmp_path, examples) == "20 examples imported; d1 holds 20 now"
    records: list[RoundRecord] = []
    bus = MqttBus(broker, "mill-cloud")
    cloud = Aggregator(
        federation(small), TOPICS, bus, Journal(tmp_path / "cloud"), time.monotonic, report=records.append
    )
    trainer = trains(cloud, board)
    agent = board.shows("MainPID")
    for process in (agent, trainer):
        found = status_of(process, board)
        assert (found["NoNewPrivs"], found["Seccomp"], int(found["CapBnd"], 16)) == ("1", "2", 0)
        assert found["Uid"].split()[0] != "0"
    # ~@resources has not kept it from bounding itself
    assert until(lambda: board.said("cat", f"/proc/{trainer}/oom_score_adj") == "1000")
    limits = board.said("cat", f"/proc/{trainer}/limits").splitlines()
    (data,) = (line.split()[3] for line in limits if line.startswith("Max data size"))
    reserved = 1024 * int(status_of(trainer, board)["VmData"].split()[0])  # more than it had when it did
    assert int(data) <= half() + reserved
    while not cloud.done:
        cloud.step(0.1)
    assert (records[0].reported, records[0].examples) == (1, 20)
    assert not np.array_equal(cloud.weights, small.weights)
    bus.close()


def test_what_a_board_says_of_itself_gets_out_of_the_sandbox(board: Machine, broker: Broker) -> None:
    """The fleet is told its memory, its machine and its runtime: /proc/meminfo is in sight."""
    bus = MqttBus(broker, "watcher")
    bus.subscribe(TOPICS.status("d1"))
    found: list[Status] = []
    while not found:
        for _, payload in bus.deliveries(0.1):
            try:
                found.append(decode(Status, payload))
            except FrameError:
                continue
    bus.close()
    assert found[0].ability.memory_mib > 0
    assert (found[0].ability.arch, found[0].ability.runtime) != ("", "")


def probed(board: Machine, script: str, *more: str) -> list[str]:
    """The lines that a Python script prints in the service's sandbox, with `more` lines in its unit."""
    drop_in = [
        *("[Service]", "Type=oneshot", "Restart=no", "StandardOutput=journal", "SyslogIdentifier=probe"),
        *("ExecStart=", "ExecStart=python3 /usr/lib/fedfleet/probe.py", *more),
    ]
    written(board, "/usr/lib/fedfleet/probe.py", script)
    written(board, f"/run/systemd/system/{UNIT}.d/probe.conf", "\n".join(drop_in))
    board.said("systemctl", "daemon-reload")
    board.said("systemctl", "restart", UNIT)
    return board.said("journalctl", "-q", "-o", "cat", "-t", "probe").splitlines()


def written(board: Machine, path: str, text: str) -> None:
    board.said("mkdir", "-p", str(Path(path).parent))
    board.said("sh", "-c", 'printf "%s\n" "$1" > "$0"', path, text)


SANDBOX = """
import mmap, os, socket, resource
def refused(act):
    try:
        act()
    except OSError as error:
        return error.strerror
    return "done"
print(refused(lambda: open("/etc/probe", "w")))
print(refused(lambda: open("/var/lib/fedfleet/probe", "w")))
print(refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)))
print(refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)))
print(refused(lambda: os.sched_setaffinity(0, {0})))
print(refused(lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**30, resource.RLIM_INFINITY))))
print(refused(lambda: os.listdir("/root")), os.path.exists("/proc/1/status"), os.listdir("/dev/shm"))
"""


def test_the_sandbox_holds(board: Machine) -> None:
    """What the unit forbids is forbidden: writing anywhere but in its state, seeing others, memory to write and run."""
    assert probed(board, SANDBOX) == [
        "Read-only file system",
        "done",
        "Operation not permitted",
        "Address family not supported by protocol",
        "Operation not permitted",
        "done",
        "Permission denied False []",
    ]


def test_why_the_rest_of_proc_stays_in_sight(board: Machine) -> None:
    """With ProcSubset=pid a board knows neither its memory nor its load nor its routes; with the unit as it is, all."""
    script = "import os; print([os.path.exists(f'/proc/{name}') for name in ('meminfo', 'loadavg', 'net/route')])"
    assert probed(board, script)[-1] == "[True, True, True]"
    assert probed(board, script, "ProcSubset=pid")[-1] == "[False, False, False]"


def test_a_drop_in_lets_a_sensor_in(board: Machine) -> None:
    """As docs/board.md has it: without the lines no device, with them the one that is named, and not the next."""
    known = Path("/proc/misc").read_text().split()
    if not {"tun", "fuse"} <= set(known):
        pytest.skip("no devices to stand for sensors in this kernel")
    numbers = {name: known[known.index(name) - 1] for name in ("tun", "fuse")}
    for name, number in numbers.items():
        board.said("sh", "-c", f"mknod /dev/{name} c 10 {number} && chgrp audio /dev/{name} && chmod 660 /dev/{name}")
    script = """
for name in ("tun", "fuse"):
    try:
        open(f"/dev/{name}", "rb", buffering=0).close()
        print("opened")
    except OSError as error:
        print(error.strerror)
"""
    assert probed(board, script)[-2:] == ["No such file or directory"] * 2
    more = ["PrivateDevices=no", "DeviceAllow=/dev/tun rw", "SupplementaryGroups=audio"]
    assert probed(board, script, *more)[-2:] == ["opened", "Operation not permitted"]


def test_a_training_process_that_hangs_is_noticed_and_all_is_started_again(
    tmp_path: Path, board: Machine, broker: Broker, small: Compiled, examples: Examples
) -> None:
    written(board, f"/run/systemd/system/{UNIT}.d/short.conf", "[Service]\nWatchdogSec=3\nRestartSec=1")
    board.said("systemctl", "stop", UNIT)
    import_examples(board, tmp_path, examples)
    board.said("systemctl", "daemon-reload")
    board.said("systemctl", "start", UNIT)
    bus = MqttBus(broker, "mill-cloud")
    cloud = Aggregator(federation(small, 10**7), TOPICS, bus, Journal(tmp_path / "cloud"), time.monotonic)
    trainer = trains(cloud, board)
    agent = board.shows("MainPID")
    assert not until(lambda: board.shows("MainPID") != agent, 6), "it was ended though it trained"
    board.said("kill", f"-{int(signal.SIGSTOP)}", trainer)
    assert until(lambda: board.shows("NRestarts") == "1", 20)
    assert "Watchdog timeout" in board.said("journalctl", "-u", UNIT)
    assert until(lambda: worker(board) not in ("", trainer), 30)
    bus.close()


def test_it_ends_within_seconds_and_leaves_no_process(board: Machine) -> None:
    board.said("systemctl", "stop", UNIT)
    assert board.shows("Result") == "success"
    assert board.run("pgrep", "-u", "fedfleet").stdout == ""


def test_a_second_run_changes_nothing(tmp_path: Path, board: Machine) -> None:
    agent = board.shows("MainPID")
    assert board.said("sh", f"{tmp_path}/fedfleet/install.sh").endswith("nothing changed")
    assert board.shows("MainPID") == agent


def test_wrong_settings_are_refused_by_the_agent_itself_and_the_old_ones_stay(tmp_path: Path, board: Machine) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(SETTINGS.format(port=1883).replace("[broker]", "colour = 1\n[broker]"))
    result = board.run("sh", f"{tmp_path}/fedfleet/install.sh", "--settings", str(wrong))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"fedfleet: {wrong}: unknown setting colour")
    assert "colour" not in board.said("cat", "/etc/fedfleet/agent.toml")


def test_it_is_taken_off_and_the_examples_stay(board: Machine) -> None:
    assert "is off this board" in board.said("sh", "/usr/lib/fedfleet/install.sh", "--uninstall")
    assert board.run("systemctl", "cat", UNIT).returncode == 1
    assert board.said("ls", "/var/lib/fedfleet") == "state"
    assert board.run("pgrep", "-u", "fedfleet").stdout == ""


def test_a_32_bit_board_without_numpy_and_without_a_network_is_told_so(tmp_path: Path, bundle: Path) -> None:
    """Of such a board no more is tried here than its bundle, which has no numpy."""
    shutil.copytree(bundle, tmp_path / "fedfleet")
    (tmp_path / "fedfleet" / "agent.toml").write_text(SETTINGS.format(port=1883))
    release = json.loads((tmp_path / "fedfleet" / "release.json").read_text())
    release["wheels"] = [wheel for wheel in release["wheels"] if not wheel["name"].startswith("numpy-")]
    (tmp_path / "fedfleet" / "release.json").write_text(json.dumps(release))
    with systemd.booted(tmp_path) as machine:
        machine.said(
            "sh", "-c", "rm -rf /etc/apt/sources.list* /var/lib/apt/lists/* /usr/lib/python3/dist-packages/numpy"
        )
        result = machine.run("sh", f"{tmp_path}/fedfleet/install.sh")
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1] == (
            "fedfleet: this board needs Debian's python3-numpy and has no network to get it: install it, then run this again"
        )
        assert machine.run("ls", "/var/lib/fedfleet").returncode != 0
