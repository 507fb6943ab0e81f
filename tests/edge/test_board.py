"""What a board says of itself: real files in a folder, and those that some board does not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sysfs

from fedfleet.edge import board
from fedfleet.edge.runtime import runtime


def test_a_board_that_has_nothing_says_nothing(tmp_path: Path) -> None:
    found = [read(tmp_path) for read in (board.temperature, board.load, board.memory, board.battery)]
    assert found == [None] * 4
    assert (board.throttled(tmp_path), board.metered(tmp_path, ["*"])) == ("", "")
    assert (board.disk(tmp_path / "absent"), board.resident(tmp_path, 7)) == (None, 0.0)


def test_this_machine_says_something() -> None:
    root = Path("/")
    assert board.load(root) is not None
    free, disk = board.memory(root), board.disk(root)
    assert free is not None and 1 < free < 2**24
    assert disk is not None and 0 <= disk < 2**34
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        while not board.resident(root, process.pid) > 1:
            assert process.poll() is None
    assert board.resident(root, process.pid) == 0
    assert 1 < board.resident(root, os.getpid()) < 2**20


def test_the_hottest_zone_counts_and_those_that_do_not_work_do_not(tmp_path: Path) -> None:
    sysfs.heat(tmp_path, 47.2, 61.85, -5.0, 255.0)
    assert board.temperature(tmp_path) == 61.85
    sysfs.put(tmp_path, "sys/class/thermal/thermal_zone1/mode", "disabled\n")
    assert board.temperature(tmp_path) == 47.2
    sysfs.put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "")
    assert board.temperature(tmp_path) == -5.0
    (tmp_path / "sys/class/thermal/thermal_zone2/temp").unlink()
    (tmp_path / "sys/class/thermal/thermal_zone2/temp").mkdir()  # reading it fails, as it does where a driver is asleep
    assert board.temperature(tmp_path) is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (0, ""),
        (0xF0000, ""),  # it has happened, some time
        (0x50005, "the voltage is too low, the clock is throttled"),
        (0x2, "the clock is capped"),
        (0x80008, "the soft temperature limit is on"),
    ],
)
def test_the_flags_of_a_raspberry_pi(tmp_path: Path, flags: int, said: str) -> None:
    sysfs.flags(tmp_path, flags)
    assert board.throttled(tmp_path) == said


def test_its_voltage_where_only_the_kernel_tells(tmp_path: Path) -> None:
    sysfs.put(tmp_path, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    sysfs.put(tmp_path, "sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n")
    sysfs.put(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    alarm = sysfs.put(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    assert board.throttled(tmp_path) == ""
    alarm.write_text("1\n")
    assert board.throttled(tmp_path) == "the voltage is too low"
    sysfs.put(tmp_path, board.THROTTLED, "not a number")
    assert board.throttled(tmp_path) == "the voltage is too low"


def test_load_and_memory(tmp_path: Path) -> None:
    sysfs.load(tmp_path, 1.25)
    sysfs.memory(tmp_path, 87.5)
    assert (board.load(tmp_path), board.memory(tmp_path)) == (1.25, 87.5)
    sysfs.put(tmp_path, "proc/meminfo", "MemTotal: 443080 kB\n")  # before Linux 3.14
    assert board.memory(tmp_path) is None


def test_what_the_fleet_is_told_of_a_board(tmp_path: Path) -> None:
    sysfs.memory(tmp_path, 87.5)
    found = board.ability(tmp_path, ("line-3", "camera"))
    assert (found.tags, found.memory_mib, found.arch) == (("line-3", "camera"), 432, os.uname().machine)
    assert found.runtime in runtime().__name__  # litert, or tflite
    assert found.runtime in ("litert", "tflite")
    assert board.ability(tmp_path / "absent", ()).memory_mib == 0
    sysfs.put(tmp_path, "proc/meminfo", f"MemTotal: {2**70} kB\n")
    assert board.ability(tmp_path, ()).memory_mib == 2**43


def test_memory_of_a_process_is_what_it_would_give_back(tmp_path: Path) -> None:
    sysfs.put(tmp_path, "proc/7/statm", "90000 15360 2560 1 0 40000 0\n")
    assert board.resident(tmp_path, 7) == 12800 * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_disk(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert board.disk(tmp_path) == pytest.approx(found.f_bavail * found.f_frsize / 2**20, rel=0.1)


def test_a_battery_counts_while_the_board_runs_on_it(tmp_path: Path) -> None:
    sysfs.supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", capacity=3)
    assert board.battery(tmp_path) is None
    sysfs.supply(tmp_path, "BAT0", type="Battery", status="Full", capacity=100)
    assert board.battery(tmp_path) is None
    sysfs.supply(tmp_path, "BAT0", status="Discharging", capacity=64)
    assert board.battery(tmp_path) == 64
    sysfs.supply(tmp_path, "BAT1", type="Battery", status="Discharging", capacity=41)
    assert board.battery(tmp_path) == 41
    sysfs.supply(tmp_path, "AC", type="Mains", online=1)
    assert board.battery(tmp_path) is None  # some discharge a little on the mains, to live longer
    sysfs.supply(tmp_path, "AC", online=0)
    sysfs.supply(tmp_path, "BAT0", status="Unknown")
    sysfs.supply(tmp_path, "BAT1", status="Unknown")
    assert board.battery(tmp_path) == 41


def test_a_battery_that_does_not_say_how_full_it_is_and_a_supply_without_one(tmp_path: Path) -> None:
    sysfs.supply(tmp_path, "usb", type="USB", online=0)
    assert board.battery(tmp_path) is None
    sysfs.supply(tmp_path, "ups", type="Battery", status="Discharging")
    assert board.battery(tmp_path) == 100


def test_the_default_route_says_which_link_is_used(tmp_path: Path) -> None:
    costly = ["wwan*", "ppp0"]
    sysfs.route(tmp_path, ("wwan0", 700), ("eth0", 100))
    assert board.metered(tmp_path, costly) == ""
    sysfs.route(tmp_path, ("wwan0", 100), ("eth0", 700))
    assert board.metered(tmp_path, costly) == "wwan0"
    assert board.metered(tmp_path, []) == ""
    sysfs.route(tmp_path)
    assert board.metered(tmp_path, ["*"]) == ""
    sysfs.route_6(tmp_path)
    assert board.metered(tmp_path, ["*"]) == ""
    sysfs.route_6(tmp_path, ("eth0", 1024), ("ppp0", 256))
    assert board.metered(tmp_path, costly) == "ppp0"
    sysfs.route(tmp_path, ("eth0", 5000))
    assert board.metered(tmp_path, costly) == ""
