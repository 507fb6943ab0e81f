"""The runtime's trial, judged for boards of all kinds, and the service in a folder of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import sysfs

from fedfleet.edge.doctor.device import Device
from fedfleet.edge.doctor.software import judged, unit
from fedfleet.edge.doctor.trial import tried
from fedfleet.edge.settings import AgentSettings

UNIT = "etc/systemd/system/fedfleet-agent.service"
WANTED = "etc/systemd/system/multi-user.target.wants/fedfleet-agent.service"


def test_the_installed_runtime_runs_the_smallest_program() -> None:
    said = tried()
    assert said["runtime"] in ("ai_edge_litert", "tflite_runtime")
    assert said["wrong"] == ""


@pytest.mark.parametrize(
    ("runtime", "numpy", "wrong", "machine", "python", "cause"),
    [
        ("ai_edge_litert", "2.4.6", "", "aarch64", (3, 13), ""),
        ("tflite_runtime", "1.26.4", "", "armv7l", (3, 11), ""),
        ("", "2.1.0", "", "aarch64", (3, 13), "runtime-missing"),
        ("", "1.24.2", "", "armv7l", (3, 11), "runtime-missing"),
        ("", "2.2.0", "", "armv7l", (3, 13), "runtime-no-such"),
        ("tflite_runtime", "2.0.0", "ImportError: numpy.core", "armv7l", (3, 11), "runtime-numpy-2"),
        ("ai_edge_litert", "", "", "aarch64", (3, 13), "runtime-numpy-missing"),
        ("ai_edge_litert", "2.4.6", "OSError: cannot open libc", "aarch64", (3, 13), "runtime-broken"),
    ],
)
def test_what_the_trial_says_is_judged_by_the_board(
    runtime: str, numpy: str, wrong: str, machine: str, python: tuple[int, int], cause: str
) -> None:
    found = judged({"runtime": runtime, "numpy": numpy, "wrong": wrong}, machine, python)
    assert found.cause == cause


def test_32_bit_trixie_is_told_what_to_do() -> None:
    found = judged({"runtime": "", "numpy": "2.2.0", "wrong": ""}, "armv7l", (3, 13))
    assert found.seen == "armv7l with Python 3.13"
    assert found.fix == "use a 64-bit system on this board"


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(AgentSettings("d1", "mill"), tmp_path / "agent.toml", tmp_path / "state", tmp_path / "root")


def systemctl(device: Device, monkeypatch: pytest.MonkeyPatch, *said: str) -> None:
    """A systemd that says so of the unit."""
    program = sysfs.put(device.root, "bin/systemctl", "#!/bin/sh\n" + "".join(f"echo {line}\n" for line in said))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    (device.root / "run/systemd/system").mkdir(parents=True)


def test_where_there_is_no_service_nothing_is_said_of_it(device: Device) -> None:
    assert unit(device).outcome == "skipped"
    assert not unit(device).blocks


def test_a_board_that_is_installed_must_have_its_service(device: Device) -> None:
    sysfs.put(device.root, "usr/lib/fedfleet/launch", "")
    assert unit(device).cause == "unit-missing"
    sysfs.put(device.root, UNIT, "")
    assert unit(device).cause == "unit-disabled"
    sysfs.put(device.root, WANTED, "")
    assert unit(device).outcome == "ok"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (("ActiveState=active", "NRestarts=0"), ""),
        (("ActiveState=activating", "NRestarts=1"), ""),
        (("ActiveState=activating", "NRestarts=17"), "unit-restarts"),
        (("ActiveState=failed", "Result=exit-code", "NRestarts=5"), "unit-failed"),
        (("ActiveState=inactive", "NRestarts=0"), "unit-stopped"),
    ],
)
def test_what_systemd_says(said: tuple[str, ...], cause: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (UNIT, WANTED):
        sysfs.put(device.root, name, "")
    systemctl(device, monkeypatch, *said)
    assert unit(device).cause == cause
