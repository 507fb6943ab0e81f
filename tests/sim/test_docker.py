"""The engine docker without an engine: what it needs and says, what it describes, and what it does to whom."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import environment, until
from rich.console import Console

from fedfleet.sim.docker import breaking, client
from fedfleet.sim.docker.stack import HOME, PORT, USER, Stack, archive, described
from fedfleet.sim.mishaps import parse
from fedfleet.sim.simulate import simulate
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import SettingsError

pytest.importorskip("cryptography")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A folder that is all of PATH, but for what a shell needs."""
    known, folder = os.environ["PATH"], tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "date"):
        (folder / name).symlink_to(f"/bin/{name}")
    os.environ["PATH"] = str(folder)
    yield folder
    os.environ["PATH"] = known


def command(path: Path, script: str) -> Path:
    """Put a `docker` into `path` that notes what it is asked, and then does as `script` says."""
    (path / "docker").write_text(f'#!/bin/sh\necho "$*" >> {path}/asked\n{script}\n')
    (path / "docker").chmod(0o755)
    return path / "asked"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            None,
            "docker is not installed; install Docker Engine and",
        ),
        ("echo 'Cannot connect to the daemon' >&2; exit 1", "engine is out of reach: start it, .*Cannot connect to"),
        ('[ "$1" = version ] && echo 27.0 && exit; exit 1', "docker has no compose plugin; install Docker Engine"),
    ],
)
def test_what_is_missing_is_said_in_one_line_before_anything_starts(
    script: str | None, said: str, path: Path, tmp_path: Path
) -> None:
    if script:
        command(path, script)
    with pytest.raises(SettingsError, match=said) as error:
        simulate(Simulation(engine="docker"), tmp_path / "runs", Console(file=io.StringIO()))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_broker_of_someone_elses_is_refused(path: Path, tmp_path: Path) -> None:
    command(path, "echo 27.0.1")
    with pytest.raises(SettingsError, match="the engine docker has a broker of its own"):
        simulate(Simulation(engine="docker", broker="127.0.0.1"), tmp_path / "runs", Console(file=io.StringIO()))


def test_an_engine_that_is_there_is_taken(path: Path) -> None:
    command(path, "echo 27.0.1")
    assert client.require() == "27.0.1"


def test_a_failure_is_its_last_line(path: Path) -> None:
    command(path, "echo one >&2; echo 'no such network' >&2; exit 3")
    with pytest.raises(SettingsError, match="^docker network connect: no such network$"):
        client.docker("network", "connect", "field", "d0")


def test_a_project_is_taken_down_when_it_is_closed(path: Path, tmp_path: Path) -> None:
    asked = command(path, "")
    stack = Stack("fedfleet-x", tmp_path, ["d0"])
    assert not asked.exists()
    stack.close()
    assert asked.read_text().split()[-4:] == ["down", "--volumes", "--timeout", "5"]


def test_a_project_is_taken_down_when_its_owner_is_killed(path: Path, tmp_path: Path) -> None:
    asked = command(path, "")
    code = (
        "import sys, time; from pathlib import Path; from fedfleet.sim.docker.stack import Stack\n"
        f"stack = Stack('fedfleet-x', Path('{tmp_path}'), ['d0'])\nprint('up', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment()) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert not asked.exists()
        owner.kill()
    assert until(lambda: asked.exists() and "down --volumes" in asked.read_text())


def test_devices_have_a_volume_each_and_reach_the_broker_alone() -> None:
    found = described(["d0", "d1"])
    services, networks = found["services"], found["networks"]
    assert isinstance(services, dict) and isinstance(networks, dict)
    assert set(services) == {"broker", "d0", "d1"}
    assert services["d1"]["volumes"] == [f"d1:{HOME}"] and services["d1"]["extends"]["service"] == "agent"
    assert services["broker"]["ports"] == [f"127.0.0.1::{PORT}"]
    assert networks["field"] == {"internal": True}


def test_what_a_device_is_given_is_its_own_and_for_no_other_eyes(tmp_path: Path) -> None:
    (tmp_path / "state" / "examples").mkdir(parents=True)
    (tmp_path / "state" / "examples" / "0.segment").write_bytes(b"private")
    packed = archive({"agent.toml": "device", "state/identity.pem": "key"}, {"state": tmp_path / "state"})
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = tar.getmembers()
        content = tar.extractfile("state/examples/0.segment")
        assert content is not None and content.read() == b"private"
    assert [member.name for member in members] == [
        "state",
        "state/examples",
        "state/examples/0.segment",
        "agent.toml",
        "state/identity.pem",
    ]
    assert all((member.uid, member.gid) == (USER, USER) and member.mode & 0o077 == 0 for member in members)


@pytest.mark.parametrize(
    ("text", "began", "ended"),
    [
        ("disconnect 1", "network disconnect p_field c0", "network connect p_field c0"),
        ("kill 1", "kill c0", "start c0"),
        ("memory 64m on 1", "update --memory 67108864 --memory-swap 67108864 c0", "update --memory 536870912"),
        ("slow 256kbit on 1", "tbf rate 256kbit burst 8kb latency 500ms", "tc qdisc del dev $link root"),
        (
            "loss 10% on 1",
            "iptables -A INPUT -m statistic --mode random --probability 0.100000 -j DROP",
            "iptables -D OUTPUT",
        ),
    ],
)
def test_each_fault_is_done_and_undone_by_docker_alone(text: str, began: str, ended: str, path: Path) -> None:
    asked, mishap = command(path, ""), parse(text)
    assert breaking.afflict(mishap, {"d0": "c0"}, "p").startswith("d0: ")
    assert began in asked.read_text()
    asked.unlink()
    assert breaking.relieve(mishap, {"d0": "c0"}, "p").startswith("d0: ")
    assert ended in asked.read_text()


def test_a_device_that_has_more_memory_already_begins_anew_within_its_bound(path: Path) -> None:
    asked = command(
        path, f'[ "$1" = update ] && [ ! -e {path}/killed ] && exit 1; [ "$1" = kill ] && : > {path}/killed; exit 0'
    )
    said = breaking.afflict(parse("memory 16m on 1"), {"d0": "c0"}, "p")
    assert said == "d0: killed, for it had more already; has 16 MiB of memory"
    assert [line.split()[0] for line in asked.read_text().splitlines()] == ["update", "kill", "update", "start"]


def test_what_fails_for_one_device_is_done_for_the_others_and_named(path: Path) -> None:
    command(path, 'case "$*" in *c1*) echo "no such container" >&2; exit 1;; esac')
    said = breaking.afflict(parse("kill all"), {"d0": "c0", "d1": "c1", "d2": "c2"}, "p")
    assert said == "d0, d2: killed; d1: not done: docker kill c1: no such container"


def test_tools_are_built_only_for_faults_that_take_them(path: Path) -> None:
    asked = command(path, "")
    breaking.prepare([parse("kill 1"), parse("memory 64m")])
    assert not asked.exists()
    breaking.prepare([parse("loss 10%")])
    assert "--target faults --tag fedfleet-faults" in asked.read_text()
