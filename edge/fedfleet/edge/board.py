"""What a board says of itself, read from `/proc` and `/sys` under a root folder; None where it does not have it.

Sources: proc(5); Linux' Documentation/ABI/testing/sysfs-class-{thermal,power}, Documentation/hwmon/raspberrypi-hwmon;
the flags of Raspberry Pi's `vcgencmd get_throttled`, of which the lower four say what is so now.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from fedfleet.wire.calling import MAX_MIB, WORD, Ability

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
FLAGS = ("the voltage is too low", "the clock is capped", "the clock is throttled", "the soft temperature limit is on")
HOTTEST = 150.0  # beyond it a sensor is broken, not the board hot
MIB = 2**20
ROUTE_UP = 1
RUNTIMES = {"ai_edge_litert": "litert", "tflite_runtime": "tflite"}


def ability(root: Path, tags: tuple[str, ...]) -> Ability:
    """What the fleet is told of the board: its owner's `tags`, all of its memory, its processor, what runs programs."""
    found = next((said for package, said in RUNTIMES.items() if find_spec(package)), "")
    machine = os.uname().machine
    whole = min(int(_memory(root, "MemTotal:") or 0), MAX_MIB)
    return Ability(tags, whole, machine if WORD.fullmatch(machine) else "", found)


def temperature(root: Path) -> float | None:
    """The hottest thermal zone, in degrees C."""
    readings = [value / 1000 for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")) for value in _zone(zone)]
    return max((reading for reading in readings if reading <= HOTTEST), default=None)


def throttled(root: Path) -> str:
    """Why a Raspberry Pi's firmware holds the board back right now; empty where it does not."""
    for text in _words(root / THROTTLED)[:1]:
        try:
            flags = int(text, 16)
        except ValueError:
            continue
        return ", ".join(said for bit, said in enumerate(FLAGS) if flags >> bit & 1)
    for folder in root.glob("sys/class/hwmon/hwmon*"):
        if _words(folder / "name") == ["rpi_volt"] and _words(folder / "in0_lcrit_alarm") == ["1"]:
            return FLAGS[0]
    return ""


def load(root: Path) -> float | None:
    """The load average over a minute, for the whole board: 1 for each core that is kept busy."""
    return next(_numbers(root / "proc/loadavg"), None)


def memory(root: Path) -> float | None:
    """MiB that can be had without swapping."""
    return _memory(root, "MemAvailable:")


def disk(folder: Path) -> float | None:
    """MiB that are free for us on the disk of `folder`."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize / MIB


def battery(root: Path) -> float | None:
    """Percent left of the weakest battery that the board runs on; None while it runs on the mains.

    A battery counts as full where it does not say how full it is; that of a mouse (scope `Device`) is not the board's.
    """
    supplies = [path for path in root.glob("sys/class/power_supply/*") if _words(path / "scope") != ["Device"]]
    batteries = [path for path in supplies if _words(path / "type") == ["Battery"]]
    outside = [value for path in supplies if path not in batteries for value in _numbers(path / "online")]
    if any(outside):
        return None
    draining = [path for path in batteries if _words(path / "status") == ["Discharging"]]
    if not draining and not (batteries and outside):
        return None
    return min((value for path in draining or batteries for value in _numbers(path / "capacity")), default=100.0)


def metered(root: Path, patterns: Iterable[str]) -> str:
    """The interface of the default route if its name matches one of `patterns`, such as `wwan*`; else empty."""
    name = _gateway(root)
    return name if any(fnmatchcase(name, pattern) for pattern in patterns) else ""


def resident(root: Path, process: int) -> float:
    """MiB of memory that `process` would give back if it ended; 0 where there is none."""
    pages = list(_numbers(root / f"proc/{process}/statm"))
    return (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE") / MIB if len(pages) > 2 else 0.0


def reserved(root: Path, process: int) -> float:
    """MiB that the kernel counts as the data of `process`, and that it has not touched.

    NumPy 2.5 for 64-bit ARM reserves 250 so, of which it uses a few: more than half of a small board's memory.
    """
    data, touched = (_memory(root, what, f"proc/{process}/status") or 0.0 for what in ("VmData:", "RssAnon:"))
    return max(data - touched, 0.0)


def computed(root: Path, process: int) -> int:
    """Clock ticks that `process` has computed for, all its threads together; 0 where there is none."""
    words = _text(root / f"proc/{process}/stat").rpartition(")")[2].split()
    return int(words[11]) + int(words[12]) if len(words) > 12 else 0


def _memory(root: Path, what: str, where: str = "proc/meminfo") -> float | None:
    """MiB of `what` in one of the kernel's lists."""
    lines = _text(root / where).splitlines()
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(what)), None)


def _gateway(root: Path) -> str:
    """The interface of the default route with the lowest metric, IPv4 before IPv6."""
    lines = [line.split() for line in _text(root / "proc/net/route").splitlines()[1:]]
    routes = [(int(line[6]), line[0]) for line in lines if len(line) > 7 and line[1] == line[7] == "00000000"]
    if not routes:
        lines = [line.split() for line in _text(root / "proc/net/ipv6_route").splitlines()]
        found = [line for line in lines if len(line) > 9 and line[0] == "0" * 32 and line[1] == "00"]
        routes = [(int(line[5], 16), line[9]) for line in found if int(line[8], 16) & ROUTE_UP]
    return min(routes)[1] if routes else ""


def _zone(folder: Path) -> Iterator[float]:
    return _numbers(folder / "temp") if _words(folder / "mode") != ["disabled"] else iter(())


def _numbers(path: Path) -> Iterator[float]:
    """The numbers that a file begins with."""
    for word in _words(path):
        try:
            yield float(word)
        except ValueError:
            return


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """What a file holds; empty where it is not there or its driver has nothing to say right now."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
