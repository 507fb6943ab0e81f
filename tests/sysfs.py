"""The files in which a board speaks, in a folder of a test's own, with the contents that real boards had."""

from __future__ import annotations

from pathlib import Path

MEMINFO = """MemTotal:         443080 kB
MemFree:           31388 kB
MemAvailable:     {available} kB
Buffers:           20912 kB
"""
ROUTE = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ROUTE_6 = "{to} {bits} {zero} 00 {zero} {metric:08x} 00000001 00000000 {flags} {name:>8}\n"
ZERO = "0" * 32


def put(root: Path, name: str, text: str) -> Path:
    """Write one file, its folders made."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def heat(root: Path, *degrees: float) -> None:
    """One thermal zone for each temperature."""
    for number, value in enumerate(degrees):
        put(root, f"sys/class/thermal/thermal_zone{number}/temp", f"{value * 1000:.0f}\n")


def load(root: Path, value: float) -> None:
    """The load average of the last minute."""
    put(root, "proc/loadavg", f"{value:.2f} 0.34 0.28 1/187 12042\n")


def memory(root: Path, mib: float) -> None:
    """What is available."""
    put(root, "proc/meminfo", MEMINFO.format(available=int(mib * 1024)))


def flags(root: Path, value: int) -> None:
    """What the firmware of a Raspberry Pi says of its voltage and heat."""
    put(root, "sys/devices/platform/soc/soc:firmware/get_throttled", f"{value:x}\n")


def supply(root: Path, name: str, **files: str | int) -> None:
    """One power supply."""
    for file, text in files.items():
        put(root, f"sys/class/power_supply/{name}/{file}", f"{text}\n")


def route(root: Path, *defaults: tuple[str, int]) -> None:
    """A routing table with default routes by these interfaces, of these metrics, and a local one."""
    lines = [f"{name}\t00000000\t0101A8C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n" for name, metric in defaults]
    put(root, "proc/net/route", ROUTE + "".join(lines) + "eth9\t0001A8C0\t00000000\t0001\t0\t0\t1\t00FFFFFF\t0\t0\t0\n")


def route_6(root: Path, *defaults: tuple[str, int]) -> None:
    """The same for IPv6, with the entry that every kernel has for what cannot be reached."""
    rows = [(ZERO, "00", metric, "00450003", name) for name, metric in defaults]
    rows += [("fe80" + ZERO[4:], "40", 1, "00000001", "eth9"), (ZERO, "00", 2**32 - 1, "00200200", "lo")]
    lines = [
        ROUTE_6.format(to=to, bits=bits, zero=ZERO, metric=metric, flags=f, name=n) for to, bits, metric, f, n in rows
    ]
    put(root, "proc/net/ipv6_route", "".join(lines))
